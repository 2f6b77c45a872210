"""Markdown (CommonMark and tables), by markdown-it-py. A code block keeps its lines."""

from __future__ import annotations

import re

import yaml
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from markdown_it.token import Token

from llamafarm_ray.data.readers.base import Outline, Reader, table_lines
from llamafarm_ray.data.readers.text import require_text

__all__ = ["MarkdownReader", "MdxReader", "add_markdown"]

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_FENCED = re.compile(r"(^```.*?^```[ \t]*$)", re.DOTALL | re.MULTILINE)
_JSX = re.compile(
    r"^(?:import|export)\b[^\n]*(?:\n(?!\s*\n)[^\n]+)*|\{/\*.*?\*/\}|</?[A-Z][\w.]*(?:\s[^<>]*)?/?>|</?>",
    re.DOTALL | re.MULTILINE,
)
_LINE_BREAKS = ("softbreak", "hardbreak")


class MarkdownReader(Reader):
    """``.md`` and ``.markdown`` files; a ``title`` in YAML front matter is the title, else the first heading."""

    name = "Markdown"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        return add_markdown(require_text(data, outline), outline)


class MdxReader(Reader):
    """``.mdx`` files: Markdown without its imports, exports, expressions and components."""

    name = "MDX"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        text = require_text(data, outline).replace("\r\n", "\n")
        parts = _FENCED.split(text)  # every second one is a fenced block
        return add_markdown(
            "".join(part if index % 2 else _JSX.sub("", part) for index, part in enumerate(parts)), outline
        )


def add_markdown(text: str, outline: Outline) -> str:
    """Put Markdown into ``outline`` and return the title in its front matter, "" if it has none."""
    title, text = _front_matter(text.replace("\r\n", "\n"))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for index, token in enumerate(tokens):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "table_close":
            outline.table(table_lines(rows, header=True))
        elif token.type in ("fence", "code_block"):
            outline.code(token.content)
        elif token.type == "html_block":
            outline.block(BeautifulSoup(token.content, "lxml").get_text(" "))
        elif token.type == "inline":
            opener = tokens[index - 1]
            if opener.type == "heading_open":
                outline.heading(int(opener.tag[1]), _inline(token))
                continue
            for child in token.children or []:
                if child.type == "link_open":
                    outline.link(str(child.attrs.get("href", "")))
            if opener.type in ("th_open", "td_open"):
                rows[-1].append(_inline(token))
            else:
                outline.block(_inline(token))
    return title


def _front_matter(text: str) -> tuple[str, str]:
    """The title given in YAML front matter ("" if none), and the text without it."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return "", text
    try:
        fields = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return "", text  # two rules with text between them, not front matter
    if not isinstance(fields, dict):
        return "", text
    return str(fields.get("title") or ""), text[match.end() :]


def _inline(token: Token) -> str:
    """The text of an inline token without its markup: link texts and code stay, HTML tags and images go."""
    parts: list[str] = []
    for child in token.children or []:
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type in _LINE_BREAKS:
            parts.append(" ")
    return "".join(parts)
