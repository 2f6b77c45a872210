"""Plain text: paragraphs between blank lines, headings, lists kept line by line, questions with their answers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader, list_item
from llamafarm_ray.data.text import decode_any, num_words, unwrapped

__all__ = ["TextReader", "plain_text", "require_text"]

_UNDERLINE = re.compile(r"([=\-~*^\"#+])\1{2,}\s*$")
_UNDERLINES = "=-~^*\"#+"
_NUMBERED = re.compile(r"(?:(?:chapter|part|section)\s+)?(?P<number>\d{1,3}(?:\.\d{1,3})*|[IVX]{1,5})[.):]?\s+\S", re.IGNORECASE)
_ENTRY = re.compile(r"[^.!?:]{2,50}: \S")
_QUESTION = re.compile(r"(?:Q|Question|F|Frage)\s?\d{0,3}\s?[.:)]\s+(?=\S)")
_ANSWER = re.compile(r"(?:A|Answer|Antwort)\s?\d{0,3}\s?[.:)]\s+(?=\S)")
_DIVIDED = re.compile("[^\\W\\d_]-[ \t]*\n")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_ENDINGS = ".!?,;:\u3002\uff01\uff1f\u3001\uff0c\uff1a\uff1b\u061f\u060c\u0964\u2026"
_SENTENCE_ENDS = ".!?:\u3002\uff01\uff1f\u061f\u0964\"\u201d)"
_MINOR = frozenset("a an and as at by for from in into of on or per the to vs with".split())  # noqa: SIM905
_MAX_TITLE_WORDS = 10
_MAX_HEADING_WORDS = 8
_FEW_WORDS = 3
_WRAPPED_SHARE = 0.7


def require_text(data: bytes, outline: Outline | None = None) -> str:
    """Decode ``data`` and note in ``outline`` where its encoding is not UTF-8.

    Raises:
        BrokenDocumentError: it is no text in any encoding that is known.
    """
    decoded = decode_any(data)
    if decoded is None:
        raise BrokenDocumentError("it is no text in an encoding that can be told.", hint="Save it as UTF-8.")
    if outline is not None:
        if decoded.encoding != "utf-8":
            outline.note(f"read as {decoded.encoding}")
        if decoded.num_replaced:
            outline.note(f"{decoded.num_replaced} bytes that are not UTF-8 left out")
    return decoded.text


class TextReader(Reader):
    """``.txt`` files and others without markup."""

    name = "text"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a short first line without a full stop is the title."""
        return plain_text(require_text(data, outline), outline)


def plain_text(text: str, outline: Outline) -> str:
    """Put plain text into ``outline`` and return its title, "" if it has none."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").strip("\n")
    words = frozenset(_WORD.findall(text.lower())) if _DIVIDED.search(text) else frozenset()
    pieces = list(_pieces(text, words))
    title = ""
    for index, piece in enumerate(pieces):
        # A heading with nothing below it is the last words of the text.
        if piece.level and any(not later.level for later in pieces[index + 1 :]):
            title = title or piece.text
            outline.heading(piece.level, piece.text)
        else:
            outline.block(piece.text)
    return title


@dataclass(frozen=True, slots=True)
class _Piece:
    """A heading, if ``level`` is not 0, or a block."""

    text: str
    level: int = 0


def _pieces(text: str, words: Collection[str]) -> Iterator[_Piece]:
    paragraphs = [paragraph.split("\n") for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
    question = ""
    for index, lines in enumerate(paragraphs):
        following = paragraphs[index + 1] if index + 1 < len(paragraphs) else []
        if question:
            if _ANSWER.match(lines[0].strip()):
                yield _Piece(f"{question} {unwrapped(_stripped(lines), words)}")
                question = ""
                continue
            yield _Piece(question)
            question = ""
        if _QUESTION.match(lines[0].strip()):
            *blocks, last = _questions(lines, words)
            yield from map(_Piece, blocks)
            if following and _ANSWER.match(following[0].strip()) and not _has_answer(last):
                question = last
            else:
                yield _Piece(last)
            continue
        heading, rest = _heading(lines, following, first=index == 0)
        if heading is not None:
            yield heading
        yield from map(_Piece, _blocks(rest, words))


def _heading(lines: list[str], following: Sequence[str], *, first: bool) -> tuple[_Piece | None, list[str]]:
    """Take a heading off the paragraph ``lines``, before the paragraph ``following``; return it and what is left."""
    line = lines[0].strip()
    if len(lines) > 1 and _UNDERLINE.match(lines[1]) and _may_be_heading(line, _MAX_TITLE_WORDS * 2):
        return _Piece(line, 1 if lines[1].startswith("=") else 2), lines[2:]
    numbered = _NUMBERED.match(line)
    if len(lines) == 1:
        if not _may_be_heading(line, _MAX_TITLE_WORDS):
            return None, lines
        if first:
            return _Piece(line, 1), []
        if numbered and "." in numbered["number"] and not list_item(line, 0):
            return _Piece(line, min(6, 2 + numbered["number"].count("."))), []
        if numbered and following and not _NUMBERED.match(following[0].strip()) and _is_prose(following):
            return _Piece(line, 2), []
        short = num_words(line) <= _FEW_WORDS and line[:1].isupper()
        if line.isupper() or ((_is_title_case(line) or short) and _is_prose(following)):
            return _Piece(line, 2), []
        return None, lines
    widest = max(len(other) for other in lines[1:])
    if (
        _may_be_heading(line, _MAX_HEADING_WORDS)
        and not list_item(line, 0)
        and not _ENTRY.match(lines[1])
        and (_is_title_case(line) or line.isupper())
        and lines[1].lstrip()[:1].isupper()
        and len(line) < _WRAPPED_SHARE * widest
        and _is_prose(lines[1:])
    ):
        return _Piece(line, 1 if first else 2), lines[1:]
    return None, lines


def _may_be_heading(line: str, max_words: int) -> bool:
    return (
        0 < num_words(line) <= max_words
        and (line[-1] not in _ENDINGS or line.endswith("?"))
        and any(character.isalpha() for character in line)
        and not _ENTRY.match(line)
    )


def _is_title_case(line: str) -> bool:
    """Return True if each word but the minor ones begins with a capital: ``Rules of the House``."""
    words = line.split()
    return all(word[:1].isupper() or word[:1].isdigit() or word in _MINOR for word in words) and line[:1].isupper()


def _is_prose(lines: Sequence[str]) -> bool:
    text = " ".join(lines).strip()
    return num_words(text) > _FEW_WORDS and text[-1] in _SENTENCE_ENDS


def _stripped(lines: Sequence[str]) -> str:
    return "\n".join(line.strip() for line in lines)


def _has_answer(block: str) -> bool:
    return re.search(rf"\s{_ANSWER.pattern}", block) is not None


def _questions(lines: Sequence[str], words: Collection[str]) -> list[str]:
    """Return a block for each question in a paragraph that begins with one: ``Q: May I? A: Yes.``."""
    found: list[list[str]] = []
    for line in map(str.strip, lines):
        if _QUESTION.match(line) or not found:
            found.append([])
        found[-1].append(line)
    return [unwrapped("\n".join(block), words) for block in found]


def _blocks(lines: Sequence[str], words: Collection[str]) -> list[str]:
    """Join wrapped lines into one paragraph; list items and ``term: definition`` lines stay apart."""
    blocks: list[list[str]] = []
    entries = len(lines) > 1 and all(_ENTRY.match(line) for line in lines)
    number = 0
    for line in lines:
        item = list_item(line, number)
        if item:
            text, number = item
            blocks.append([text])
        elif not blocks or entries:
            blocks.append([line.strip()])
        else:
            blocks[-1].append(line.strip())
    return [unwrapped("\n".join(block), words) for block in blocks]
