"""Bytes to text: Unicode first, then older encodings, found by charset-normalizer and the language of the result."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from llamafarm_ray.text.languages import guess

__all__ = ["Decoded", "decode_any", "decode_text", "text_encoding"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of two that fit equally well the first is taken.
_ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "koi8_u", "iso8859_2", "iso8859_5", "cp1253", "cp1254", "cp1255"),
    *("cp1256", "cp1257", "cp932", "euc_jp", "gb18030", "big5", "cp949", "iso8859_15", "cp850", "cp866", "cp874"),
)
_SAMPLE_BYTES = 8 * 1024
_MAX_CHAOS = 0.3
_LEAST_SCORE = 0.15
_LANGUAGE_WEIGHT = 0.3
_VALID_PER_INVALID = 20
_ISO_2022 = re.compile(rb"\x1b(?:\$[@B]|\([BJ])")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_ASCII_LETTER = re.compile(rb"[A-Za-z]")
_MIN_BYTES = 8
_MAX_CONTROL_SHARE = 0.01
_HIGH_LINE = re.compile(rb"[^\n]{0,200}[\x80-\xff][^\n]{0,200}")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text, and the encoding that it was read in.

    Args:
        text: without a byte order mark.
        encoding: by the name that Python has for it.
        num_replaced: bytes that were invalid in this encoding and became U+FFFD.
    """

    text: str
    encoding: str
    num_replaced: int = 0


def decode_text(data: bytes) -> str | None:
    """Decode UTF-8, or UTF-16/32 told by a byte order mark or by its zero bytes; None if ``data`` is neither."""
    decoded = _unicode(data)
    return None if decoded is None else decoded.text


def decode_any(data: bytes) -> Decoded | None:
    """Decode text in any encoding; None if ``data`` is no text.

    Tried in this order: Unicode, with or without a byte order mark; ISO-2022-JP; UTF-8 with a few invalid bytes,
    which are replaced; then 21 older encodings. Of those that decode all of it to a plausible text the one counts
    whose result looks most like a language.
    """
    if _ISO_2022.search(data[:_SAMPLE_BYTES]):
        decoded = _strict(data, "iso2022_jp_2")
        if decoded is not None:
            return decoded
    decoded = _unicode(data)
    if decoded is not None:
        return decoded
    head = data[:_SAMPLE_BYTES]
    if len(_CONTROL.findall(head)) > _MAX_CONTROL_SHARE * len(head):
        return None
    return _damaged_utf8(data) or _older(data)


def text_encoding(data: bytes) -> str:
    """Return the encoding of a Unicode text by its first bytes: UTF-16 or UTF-32 where they show it, else UTF-8."""
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    return marked or _utf16_without_mark(data) or "utf-8"


def _unicode(data: bytes) -> Decoded | None:
    decoded = _strict(data, text_encoding(data))
    return None if decoded is None or "\0" in decoded.text else decoded


def _strict(data: bytes, encoding: str) -> Decoded | None:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return Decoded(text.removeprefix("\ufeff"), encoding.removesuffix("-sig"))


def _utf16_without_mark(data: bytes) -> str | None:
    """Mostly Latin text in UTF-16 has a zero in every second byte; text in UTF-8 has none at all."""
    sample = data[:4096]
    if len(sample) < 4 or len(data) % 2:  # two characters
        return None
    zeros_even, zeros_odd = sample[::2].count(0), sample[1::2].count(0)
    if zeros_odd > len(sample) // 5 and not zeros_even:
        return "utf-16-le"
    if zeros_even > len(sample) // 5 and not zeros_odd:
        return "utf-16-be"
    return None


def _damaged_utf8(data: bytes) -> Decoded | None:
    """Decode UTF-8 that is cut, or has a stray byte of another encoding among many valid characters."""
    text = data.decode("utf-8", "replace")
    num_replaced = text.count("\ufffd")
    num_valid = sum(1 for character in text if character > "\x7f") - num_replaced
    if num_valid < _VALID_PER_INVALID * num_replaced or "\0" in text:
        return None
    return Decoded(text.removeprefix("\ufeff"), "utf-8", num_replaced)


def _older(data: bytes) -> Decoded | None:
    from charset_normalizer import from_bytes  # most documents are Unicode

    sample = _sample(data)
    if len(sample) < _MIN_BYTES and not _ASCII_LETTER.search(sample):
        return None  # too little to tell
    matches = from_bytes(sample, cp_isolation=list(_ENCODINGS), preemptive_behaviour=False, threshold=_MAX_CHAOS)
    ranked = []
    for match in matches:
        score = round(_LANGUAGE_WEIGHT * guess(str(match).lower())[1] - match.chaos, 2)
        names = {match.encoding, *match.could_be_from_charset}
        ranked.append((-score, min(_ENCODINGS.index(name) for name in names if name in _ENCODINGS)))
    for negative, index in sorted(ranked):
        decoded = _strict(data, _ENCODINGS[index])
        if decoded is not None and -negative >= _LEAST_SCORE:
            return decoded
    return None


def _sample(data: bytes) -> bytes:
    """Return the start of each line of ``data`` that has more than ASCII: the rest says nothing."""
    if len(data) <= _SAMPLE_BYTES:
        return data
    lines: list[bytes] = []
    num_bytes = 0
    for line in _HIGH_LINE.finditer(data):
        lines.append(line[0])
        num_bytes += len(line[0])
        if num_bytes >= _SAMPLE_BYTES:
            break
    return b"\n".join(lines)
