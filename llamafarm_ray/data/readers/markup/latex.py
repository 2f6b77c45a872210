"""LaTeX, by pylatexenc: sections, paragraphs, lists, tables and listings; no preamble, and no other files."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from llamafarm_ray.data.readers.base import Outline, Reader, list_item, table_lines
from llamafarm_ray.data.readers.text import require_text
from llamafarm_ray.data.text import unwrapped

__all__ = ["LatexReader"]

_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
_HEADING = re.compile(r"\\(part|chapter|section|subsection|subsubsection|paragraph)\*?\s*(?:\[[^\]]*\]\s*)?\{")
_TITLE = re.compile(r"\\title\s*(?:\[[^\]]*\]\s*)?\{")
_CODE = re.compile(
    r"\\begin\{(verbatim\*?|lstlisting|minted|Verbatim)\}(?:\[[^\]]*\])?(?:\{\w+\})?(.*?)\\end\{\1\}", re.DOTALL
)
_TABLE = re.compile(
    r"\\begin\{(tabularx?\*?|longtable)\}(?:\[[^\]]*\])?\s*(?:\{[^{}]*\}\s*)?\{(?:[^{}]|\{[^{}]*\})*\}(.*?)\\end\{\1\}",
    re.DOTALL,
)
_DRAWING = re.compile(r"\\begin\{(tikzpicture|picture|thebibliography)\}.*?\\end\{\1\}", re.DOTALL)
_COMMENT = re.compile(r"(?<!\\)%[^\n]*\n?[ \t]*")
_REFERENCE = re.compile(
    r"~?\\(?:cite[a-z]*\*?|label|eqref|pageref|autoref|cref|Cref|ref|index|vspace\*?|hspace\*?|includegraphics"
    r"|bibliography(?:style)?|input|include)\s*(?:\[[^\]]*\]\s*){0,2}\{[^{}]*\}"
)
_RULE = re.compile(
    r"\\(?:hline|toprule|midrule|bottomrule|endhead|endfoot|endfirsthead|cline\{[^}]*\}"
    r"|cmidrule(?:\([^)]*\))?\{[^}]*\})"
)
_EURO = re.compile(r"\\(?:euro|EUR|texteuro|officialeuro)\b(?:\{\})?")
_BREAK = re.compile(
    r"\n[ \t]*\n|(?=\\item\b)|\\(?:begin|end)\{(?:itemize|enumerate|description|quote|center|abstract"
    r"|quotation|document|figure|table)\*?\}(?:\[[^\]]*\])?|\\maketitle|\\tableofcontents"
)
_PLACE = "\n\n\x02{}\x02\n\n"


class LatexReader(Reader):
    r"""``.tex`` files; ``\title`` is the title. Formulas stay in LaTeX, references and drawings go."""

    name = "LaTeX"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        source = require_text(data, outline).replace("\r\n", "\n").replace("\x02", "")
        listings: list[str] = []

        def keep(match: re.Match[str]) -> str:
            listings.append(match[2])
            return _PLACE.format(len(listings) - 1)

        source = _CODE.sub(keep, source)
        source = _EURO.sub("\u20ac", source)
        source = _REFERENCE.sub("", _DRAWING.sub("", _COMMENT.sub("", source)))
        title = _TITLE.search(source)
        body = re.split(r"\\end\{document\}", re.split(r"\\begin\{document\}", source, maxsplit=1)[-1], maxsplit=1)[0]
        start = 0
        for heading in _HEADING.finditer(body):
            if heading.start() < start:
                continue
            _body(body[start : heading.start()], outline, listings)
            text, start = _braced(body, heading.end())
            outline.heading(_LEVELS[heading[1]], _text(text))
        _body(body[start:], outline, listings)
        return _text(_braced(source, title.end())[0]) if title else ""


def _braced(source: str, start: int) -> tuple[str, int]:
    """Return the text from ``start`` to the brace that closes it, and the position after that."""
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", source[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return source[start : start + brace.start()], start + brace.end()
    return source[start:], len(source)


def _body(source: str, outline: Outline, listings: list[str]) -> None:
    end = 0
    for table in _TABLE.finditer(source):
        _paragraphs(source[end : table.start()], outline, listings)
        rows = [
            [_text(cell) for cell in re.split(r"(?<!\\)&", row)]
            for row in re.split(r"\\\\(?:\[[^\]]*\])?", _RULE.sub("", table[2]))
            if row.strip()
        ]
        outline.table(table_lines(rows, header=len(rows) > 1 and len(rows[0]) > 2))  # names of columns
        end = table.end()
    _paragraphs(source[end:], outline, listings)


def _paragraphs(source: str, outline: Outline, listings: list[str]) -> None:
    for part in _BREAK.split(source):
        listing = re.fullmatch(r"\s*\x02(\d+)\x02\s*", part)
        if listing:
            outline.code(listings[int(listing[1])])
            continue
        item = re.match(r"\s*\\item\s*(?:\[([^\]]*)\])?", part)
        text = _text(part[item.end() :] if item else part)
        if item and item[1] and text:
            text = f"{_text(item[1]).rstrip(':')}: {text}"
        found = list_item(text, 0)
        outline.block(found[0] if found and item else text)


def _text(source: str) -> str:
    return unwrapped(_converter().latex_to_text(source).strip())


@cache
def _converter() -> Any:
    from pylatexenc.latex2text import (  # type: ignore[import-untyped]  # builds its tables
        LatexNodes2Text,
    )

    return LatexNodes2Text(math_mode="verbatim", keep_comments=False)
