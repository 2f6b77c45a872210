"""Shingles of texts, runs of three words, as 64-bit hashes: computed for many texts at once.

Texts are cleaned and hashed as one array of bytes, because a call for each text or word costs more than its work.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamafarm_ray.data.text import normal_form
from llamafarm_ray.text.scripts import UNSPACED_BLOCKS

__all__ = ["Hashes", "Shingles", "mixed", "shingles_in_chunks"]

Hashes = npt.NDArray[np.uint64]
_Places = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]

_SHINGLE_WORDS = 3
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # multipliers that spread the bits of a sum
# The arrays of a chunk fit into a processor's cache.
_TEXTS_A_CHUNK = 256
_CHARS_A_CHUNK = 256 * 1024

_SPACE = b" "
_WINDOW_BYTES = 8  # of a word, hashed at once
_MAX_WINDOWS = 8
_LOW_BYTES = np.array([(1 << 8 * count) - 1 for count in range(_WINDOW_BYTES + 1)], dtype=np.uint64)

# Kinds of ASCII characters; those of the first kind stand for spaces.
_NOTHING, _LETTER, _DIGIT, _INNER_SIGN, _SIGN_OF_NUMBER = range(5)
# Scripts that put no space between words; pairs of neighboring characters stand for words there.
_UNSPACED = re.compile(f"[{UNSPACED_BLOCKS}]+")


def _kind(char: str) -> int:
    if char.isalnum():
        return _DIGIT if char.isdigit() else _LETTER
    if char in ".,:":
        return _INNER_SIGN
    return _SIGN_OF_NUMBER if char in "$%+-" else _NOTHING


_KINDS = np.array([_kind(chr(code)) for code in range(128)], dtype=np.uint8)
_FOLDED = bytes(ord(chr(code).lower()) if _kind(chr(code)) else ord(_SPACE) for code in range(128)) + bytes(128)


@dataclass(frozen=True, slots=True)
class Shingles:
    """Shingles of some texts. They depend on each text alone, not on the others, the process or the machine.

    Args:
        hashes: of all shingles, text by text and in order; a text of one or two words has one of that length.
        offsets: where the shingles of each text begin, and the number of all: one more than texts.
        digests: 16 bytes by text, of its words; equal for exact duplicates (case, spacing and punctuation apart).
    """

    hashes: Hashes
    offsets: _Places
    digests: list[bytes]

    def sets(self) -> Iterator[Hashes]:
        """Yield the different hashes of each text, sorted."""
        for start, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield np.unique(self.hashes[start:end])


def shingles_in_chunks(texts: Iterable[str]) -> Iterator[Shingles]:
    """Yield the shingles of ``texts``, in order, some hundred texts at once."""
    chunk: list[str] = []
    num_chars = 0
    for text in texts:
        if chunk and (len(chunk) == _TEXTS_A_CHUNK or num_chars + len(text) > _CHARS_A_CHUNK):
            yield _shingles(chunk)
            chunk, num_chars = [], 0
        chunk.append(text)
        num_chars += len(text)
    if chunk:
        yield _shingles(chunk)


def mixed(state: Hashes, values: Hashes, odd: int = _ODD[0]) -> Hashes:
    """Return a hash of each state with another value."""
    hashes: Hashes = (state ^ values) * np.uint64(odd)
    hashes ^= hashes >> np.uint64(32)
    return hashes


def _shingles(texts: Sequence[str]) -> Shingles:
    forms = _normal_forms(texts)
    lengths = np.fromiter(map(len, forms), dtype=np.int64, count=len(forms))
    words, starts = _words(b"".join(forms))
    ends_of_texts = np.searchsorted(starts, np.cumsum(lengths))
    counts = np.diff(ends_of_texts, prepend=0)
    starts_of_texts = ends_of_texts - counts
    bounds = zip(starts_of_texts.tolist(), ends_of_texts.tolist(), strict=True)
    data = words.astype("<u8", copy=False).tobytes()
    digests = [hashlib.blake2b(data[8 * start : 8 * end], digest_size=16).digest() for start, end in bounds]

    hashes, offsets = _runs(words, starts_of_texts, ends_of_texts)
    return Shingles(hashes, offsets, digests)


def _runs(words: Hashes, starts: _Places, ends: _Places) -> tuple[Hashes, _Places]:
    """Return the hashes of runs of words, text by text, and where those of each text begin.

    A run begins at each word but the last two of a text; in a text of one or two words at its first one.
    """
    counts = ends - starts
    padded = np.concatenate([words, np.zeros(_SHINGLE_WORDS - 1, dtype=np.uint64)])
    hashes = np.zeros(len(words), dtype=np.uint64)
    for place, odd in enumerate(_ODD):
        hashes = mixed(hashes, padded[place : place + len(words)], odd)
    short = np.flatnonzero((counts > 0) & (counts < _SHINGLE_WORDS))
    for start, count in zip(starts[short].tolist(), counts[short].tolist(), strict=True):
        alone = np.zeros(1, dtype=np.uint64)
        for place in range(count):
            alone = mixed(alone, words[start + place : start + place + 1], _ODD[place])
        hashes[start] = alone[0]
    begins = np.ones(len(words), dtype=bool)
    for place in range(1, _SHINGLE_WORDS):
        last = ends - place
        begins[last[last > starts]] = False
    num_runs = np.where(counts > 0, np.maximum(counts - (_SHINGLE_WORDS - 1), 1), 0)
    return hashes[begins], np.concatenate([[0], np.cumsum(num_runs)])


def _normal_forms(texts: Sequence[str]) -> list[bytes]:
    """Return the words of each text, folded, in UTF-8, with at least one space after each."""
    plain = [text for text in texts if text.isascii()]
    cleaned = _cleaned(plain)
    forms: list[bytes] = []
    start = 0
    for text in texts:
        if text.isascii():
            end = start + len(text) + 1
            forms.append(cleaned[start:end])
            start = end
        else:
            forms.append("".join(f"{word} " for word in _other_words(text)).encode("utf-8", "surrogatepass"))
    return forms


def _cleaned(texts: Sequence[str]) -> bytes:
    """Return ASCII texts one after the other, each as long as it was and with a space after it.

    Signs become spaces, apart from those inside a number or an abbreviation, and before a digit.
    """
    written = _SPACE.join([*(text.encode("ascii") for text in texts), b""])
    chars: _Bytes = np.frombuffer(bytearray(written.translate(_FOLDED)), dtype=np.uint8)
    kinds = _KINDS[chars]
    signs = np.flatnonzero(kinds >= _INNER_SIGN)
    before, after = kinds[signs - 1], kinds[signs + 1]  # the last character is a space, also for the first one
    is_inside = _is_letter_or_digit(before) & _is_letter_or_digit(after)
    is_said = np.where(kinds[signs] == _INNER_SIGN, is_inside, after == _DIGIT)
    chars[signs[~is_said]] = ord(_SPACE)
    return chars.tobytes()


def _is_letter_or_digit(kinds: _Bytes) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (kinds == _LETTER) | (kinds == _DIGIT)
    return found


def _other_words(text: str) -> Iterator[str]:
    for word in normal_form(text).split():
        if len(word) > 1 and _UNSPACED.fullmatch(word):
            yield from (word[at : at + 2] for at in range(len(word) - 1))
        else:
            yield word


def _words(data: bytes) -> tuple[Hashes, _Places]:
    """Return the hash of each word, and where it begins in ``data``; spaces separate words, one is at the end."""
    padded = _SPACE + data + bytes(_WINDOW_BYTES)
    is_word = np.frombuffer(padded, dtype=np.uint8, count=len(data) + 1) != ord(_SPACE)
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    starts, ends = edges[::2], edges[1::2]
    lengths = ends - starts
    windows: Hashes = np.ndarray((len(data) + 1,), dtype="<u8", buffer=padded, offset=1, strides=(1,))
    hashes = np.zeros(len(starts), dtype=np.uint64)
    longer = np.arange(len(starts))
    for window in range(_MAX_WINDOWS):
        done = window * _WINDOW_BYTES
        part = windows[starts[longer] + done] & _LOW_BYTES[np.minimum(lengths[longer] - done, _WINDOW_BYTES)]
        hashes[longer] = mixed(hashes[longer], part, _ODD[window > 0])
        longer = longer[lengths[longer] > done + _WINDOW_BYTES]
        if not len(longer):
            break
    for index in longer.tolist():  # few words are that long
        word = data[starts[index] : ends[index]]
        hashes[index] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
    return hashes, starts
