"""Plain text: paragraphs between blank lines, headings, lists kept line by line, questions with their answers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from llamafarm_ray.data.readers.base import MAX_TEXT_BYTES, BrokenDocumentError, Outline, Reader, list_item
from llamafarm_ray.data.text import decode_any, num_words, unwrapped

__all__ = ["TextReader", "require_text", "text_blocks"]

_UNDERLINE = re.compile(r"([=\-~*^\"#+])\1{2,}\s*$")
_NUMBERED = re.compile(
    r"(?:(?:chapter|part|section)\s+)?"
    r"(?:(?P<number>\d{1,3}(?:\.\d{1,3})+|\d{1,3}(?=[.):])|(?-i:\d{1,3}(?=\s+[A-Z]))|[IVX]{1,5}(?=[.):])))[.):]?\s+\S",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"[^.!?:]{2,50}: \S")
_QUESTION = re.compile(r"(?:(?:Q|F|Question|Frage)\s?\d{0,3}\s?:|[QF]\d{1,3}\s?[.)]|Q\.)\s+(?=\S)")
_ANSWER = re.compile(r"(?:(?:A|Answer|Antwort)\s?\d{0,3}\s?:|A\d{1,3}\s?[.)]|A\.)\s+(?=\S)")
_BLANK = re.compile(r"\n\s*\n")
_DIVIDED = re.compile("[^\\W\\d_]-[ \t]*\n")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_ENDINGS = ".!?,;:\u3002\uff01\uff1f\u3001\uff0c\uff1a\uff1b\u061f\u060c\u0964\u2026"
_SENTENCE_ENDS = '.!?:\u3002\uff01\uff1f\u061f\u0964"\u201d)'
_MINOR = frozenset(re.findall(r"\w+", "a an and as at by for from in into of on or per the to vs with"))
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
    max_bytes = MAX_TEXT_BYTES

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a short first line without a full stop is the title."""
        text = _plain(require_text(data, outline))
        pieces = list(_pieces(text, _words(text)))
        last_block = max((index for index, piece in enumerate(pieces) if not piece.level), default=-1)
        for index, piece in enumerate(pieces):
            # A heading with nothing below it is the last words of the text.
            if piece.level and index < last_block:
                outline.heading(piece.level, piece.text)
            else:
                outline.block(piece.text)
        return outline.first_heading


def text_blocks(text: str) -> list[str]:
    """Return the paragraphs and list items of a text without headings, each on one line."""
    text = _plain(text)
    words = _words(text)
    paragraphs = (part.split("\n") for part in _BLANK.split(text) if part.strip())
    return [block for lines in paragraphs for block in _blocks(lines, words)]


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").strip("\n")


def _words(text: str) -> Collection[str]:
    """Return the words of a text if some are divided at a line's end, else nothing."""
    return frozenset(_WORD.findall(text.lower())) if _DIVIDED.search(text) else ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A heading, if ``level`` is not 0, or a block."""

    text: str
    level: int = 0


def _pieces(text: str, words: Collection[str]) -> Iterator[_Piece]:
    paragraphs = [paragraph.split("\n") for paragraph in _BLANK.split(text) if paragraph.strip()]
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
    """Take a heading off the paragraph ``lines``, before the paragraph ``following``; return it and the rest."""
    line = lines[0].strip()
    if len(lines) == 1:
        level = _level_alone(line, following, first=first)
        return (_Piece(line, level), []) if level else (None, lines)
    if _UNDERLINE.match(lines[1]) and _may_be_heading(line, _MAX_TITLE_WORDS * 2):
        return _Piece(line, 1 if lines[1].startswith("=") else 2), lines[2:]
    if _is_heading_of(line, lines[1:]):
        return _Piece(line, 1 if first else 2), lines[1:]
    return None, lines


def _level_alone(line: str, following: Sequence[str], *, first: bool) -> int:
    """Return the level of a heading that stands between blank lines, 0 if it is text."""
    if not _may_be_heading(line, _MAX_TITLE_WORDS):
        return 0
    if first:
        return 1
    numbered = _NUMBERED.match(line)
    if numbered and "." in numbered["number"]:
        return min(6, 2 + numbered["number"].count("."))
    before_prose = _is_prose(following)
    if numbered and before_prose and not _NUMBERED.match(following[0].strip()):
        return 2
    short = num_words(line) <= _FEW_WORDS and line[:1].isupper()
    return 2 if line.isupper() or (before_prose and (short or _is_title_case(line))) else 0


def _is_heading_of(line: str, rest: Sequence[str]) -> bool:
    """Return True if a line right above a paragraph is its heading: ``Free Entry``."""
    return (
        _may_be_heading(line, _MAX_HEADING_WORDS)
        and not list_item(line, 0)
        and not _ENTRY.match(rest[0])
        and (_is_title_case(line) or line.isupper())
        and rest[0].lstrip()[:1].isupper()
        and len(line) < _WRAPPED_SHARE * max(map(len, rest))
        and _is_prose(rest)
    )


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
    return re.search(rf"\s(?:{_ANSWER.pattern})", block) is not None


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
