"""AsciiDoc, by a small reader of our own: headings, paragraphs, lists, tables and code. Nothing is included."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llamafarm_ray.data.readers.base import Outline, Reader, list_item, table_lines
from llamafarm_ray.data.readers.text import require_text
from llamafarm_ray.data.text import unwrapped

__all__ = ["AsciiDocReader"]

_HEADING = re.compile(r"(={1,6}|#{1,6})\s+(\S.*)")
_CODE = re.compile(r"(-{4,}|\.{4,}|`{3,}\w*)$")
_COMMENT = re.compile(r"/{4,}$")
_TABLE = re.compile(r"[|!,:]===$")
_CONTAINER = re.compile(r"(={4,}|\*{4,}|_{4,}|--|\+)$")
_ATTRIBUTE = re.compile(
    r":!?[\w-]+!?:(?:\s|$)|\[.*\]$|(?:include|image|ifdef|ifndef|endif|toc|video)::|//(?!/)|'''|<<<|\.\w"
)
_ITEM = re.compile(r"\s*(?:\*{1,5}|-|\.{1,5}|<\d+>)\s+(?:\[[ x*]\]\s+)?(?=\S)")
_TERM = re.compile(r"\s*(\S.*?)(?:::+|;;)(?:\s+(\S.*))?$")
_TARGET = re.compile(r"(?:link:|(?=mailto:|https?://))([^\s\[\]]+)")
_LINK = re.compile(r"(?:link:|xref:|mailto:|https?://)[^\s\[\]]*\[([^\]]*)\]|<<[^,>]*,\s*([^>]*)>>|<<([^>]*)>>")
_MACRO = re.compile(r"(?:image|kbd|btn|menu|footnote|icon|pass):[^\s\[\]]*\[([^\]]*)\]|\(\(\(?[^)]*\)?\)\)|\{[\w-]+\}")
_MARK = re.compile(r"(?<![\w*_`#])([*_`#]{1,2}|``)(?=\S)(.+?)(?<=\S)\1(?![\w*_`#])")


class AsciiDocReader(Reader):
    """``.adoc`` and ``.asciidoc`` files; ``= Title`` is the title. Included files are left out."""

    name = "AsciiDoc"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        lines = iter(require_text(data, outline).splitlines())
        paragraph: list[str] = []
        term = ""
        number = 0

        def flush() -> None:
            text = "\n".join(paragraph)
            for target in _TARGET.finditer(text):
                outline.link(target[1])
            outline.block(_inline(unwrapped(text)))
            paragraph.clear()

        for line in lines:
            stripped = line.strip()
            heading = _HEADING.match(line)
            if not stripped or heading or _is_delimiter(stripped):
                flush()
            if heading:
                outline.heading(len(heading[1]), _inline(heading[2]))
            elif _CODE.match(stripped):
                outline.code("\n".join(_until(lines, stripped)))
            elif _COMMENT.match(stripped):
                list(_until(lines, stripped))
            elif _TABLE.match(stripped):
                rows = _rows(list(_until(lines, stripped)))
                outline.table(_inline(row) for row in table_lines(rows, header=True))
            elif not stripped or _CONTAINER.match(stripped) or (not paragraph and _ATTRIBUTE.match(stripped)):
                continue
            elif item := _ITEM.match(line):
                flush()
                paragraph.append(line[item.end() :])
            elif numbered := list_item(line, number):
                flush()
                text, number = numbered
                paragraph.append(text)
            elif (definition := _TERM.match(line)) and not paragraph:
                term = definition[1]
                paragraph.append(f"{term}: {definition[2] or ''}".strip())
            else:
                paragraph.append(stripped)
        flush()
        return outline.first_heading


def _is_delimiter(line: str) -> bool:
    return any(pattern.match(line) for pattern in (_CODE, _COMMENT, _TABLE, _CONTAINER))


def _until(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    end = re.match(r"\W+", delimiter)
    closing = end[0] if end else delimiter
    for line in lines:
        if line.strip() == closing:
            return
        yield line


def _rows(lines: list[str]) -> list[list[str]]:
    """Return the cells of a table: rows on lines of their own, or cells on lines that blank lines group."""
    rows: list[list[str]] = []
    width = 0
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"(?:^|\s)(?:[\d.+*]*[<^>]*[aehlms]?)?\|", line)[1:]]
        if not cells:
            if line.strip() and rows and rows[-1]:
                rows[-1][-1] += f" {line.strip()}"
            continue
        width = width or len(cells)
        if rows and len(rows[-1]) + len(cells) <= width:
            rows[-1] += cells
        else:
            rows.append(cells)
    return rows


def _inline(text: str) -> str:
    text = _LINK.sub(lambda match: match[1] or match[2] or match[3] or "", text)
    text = _MACRO.sub(lambda match: match[1] or "", text)
    return _MARK.sub(r"\2", text).removesuffix(" +")
