"""HTML, by BeautifulSoup over lxml: the text of the page without its scripts, styles and navigation."""

from __future__ import annotations

import re
import warnings

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, PreformattedString, Tag

from llamafarm_ray.data.readers.base import Outline, Reader, table_lines
from llamafarm_ray.data.readers.text import require_text

__all__ = ["HtmlReader"]

_DROPPED = ("script", "style", "nav", "noscript", "template", "svg", "aside", "footer", "iframe", "head", "pre")
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr b bdi bdo cite code data dfn em i kbd label mark q s samp small span strong sub sup time u var wbr",
    )
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=", re.IGNORECASE)


class HtmlReader(Reader):
    """``.html`` and ``.htm`` files."""

    name = "HTML"
    extensions = (".html", ".htm")

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the first ``h1`` is the title, else ``<title>``."""
        declared = _CHARSET.search(data[:4096]) is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
            warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
            soup = BeautifulSoup(data if declared else require_text(data), "lxml")
        first = soup.find("h1") or soup.find("title")
        title = first.get_text(" ") if first else ""
        for tag in soup.find_all(_is_dropped):
            tag.decompose()
        _Walk(outline).walk(soup.body or soup)
        return title


def _is_dropped(tag: Tag) -> bool:
    return tag.name in _DROPPED or tag.has_attr("hidden") or tag.get("aria-hidden") == "true"


class _Walk:
    """Gathers inline text until a block starts or ends, then hands it on. Keeps its own stack: pages nest deeply."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._text: list[str] = []

    def walk(self, root: Tag) -> None:
        stack = [(root, iter(root.children))]
        while stack:
            parent, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                if parent.name not in _INLINE:
                    self._flush()
            elif isinstance(child, NavigableString):
                if not isinstance(child, PreformattedString):  # comments, declarations
                    self._text.append(str(child))
            elif self._goes_into(child):
                stack.append((child, iter(child.children)))

    def _goes_into(self, tag: Tag) -> bool:
        """Whether the children of ``tag`` come next; if not, it is done with."""
        if tag.name in _INLINE:
            return True
        if tag.name == "br":
            self._text.append(" ")
            return False
        self._flush()
        if tag.name in _HEADINGS:
            self._outline.heading(_HEADINGS[tag.name], tag.get_text(" "))
        elif tag.name == "table":
            self._table(tag)
        elif tag.name == "dl":
            self._definitions(tag)
        else:
            return True
        return False

    def _flush(self) -> None:
        self._outline.block("".join(self._text))
        self._text = []

    def _table(self, table: Tag) -> None:
        rows = [row.find_all(["th", "td"]) for row in table.find_all("tr") if row.find_parent("table") is table]
        header = bool(rows) and len(rows) > 1 and all(cell.name == "th" for cell in rows[0])
        for line in table_lines([[cell.get_text(" ") for cell in row] for row in rows], header=header):
            self._outline.block(line)

    def _definitions(self, listing: Tag) -> None:
        term = ""
        for item in listing.find_all(["dt", "dd"]):
            text = " ".join(item.get_text(" ").split())
            if item.name == "dt":
                term = text.rstrip(":")
            else:
                self._outline.block(f"{term}: {text}" if term else text)
