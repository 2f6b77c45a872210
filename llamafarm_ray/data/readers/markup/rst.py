"""reStructuredText, by docutils, with the directives and roles of Sphinx as far as text needs them."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.core import publish_doctree  # type: ignore[import-untyped]
from docutils.parsers.rst.directives import (  # type: ignore[import-untyped]
    _directive_registry as docutils_directives,
)

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader, table_lines
from llamafarm_ray.data.readers.text import require_text

__all__ = ["RstReader"]

_SETTINGS = {
    "file_insertion_enabled": False,  # no include of the reader's own files
    "raw_enabled": False,
    "_disable_config": True,
    "report_level": 5,
    "halt_level": 5,
    "warning_stream": False,
    "doctitle_xform": False,
    "docinfo_xform": False,
    "smart_quotes": False,
    "syntax_highlight": "none",
}
_ROLE = re.compile(r":[A-Za-z][\w:+.-]*:`[~!]?([^`<]+?)(?:\s*<[^`>]*>)?`")
_DIRECTIVE = re.compile(r"^(?P<indent>[ \t]*)\.\. (?P<name>[\w:+.-]+)::(?P<rest>[^\n]*)$", re.MULTILINE)
_CODE_DIRECTIVES = {"code-block", "sourcecode"}
_WITHOUT_TEXT = {"toctree", "index", "highlight", "literalinclude", "currentmodule", "module", "py:module", "only"}
_LEAVES = (nodes.paragraph, nodes.line, nodes.term, nodes.caption, nodes.rubric, nodes.attribution)
_DROPPED = (nodes.comment, nodes.system_message, nodes.substitution_definition, nodes.field_list, nodes.docinfo)


class RstReader(Reader):
    """``.rst`` files; the first section's title is the document's. Nothing is included from other files."""

    name = "reStructuredText"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        text = _DIRECTIVE.sub(_known_directive, _ROLE.sub(r"\1", require_text(data, outline)))
        try:
            document = publish_doctree(text, settings_overrides=_SETTINGS)
        except (ValueError, AttributeError, IndexError, RecursionError) as error:
            raise BrokenDocumentError(f"docutils can't parse it ({type(error).__name__}: {error}).") from error
        _walk(document, outline, 0)
        return outline.first_heading


def _known_directive(match: re.Match[str]) -> str:
    """Replace a directive that docutils lacks: its argument becomes a paragraph, and its content is kept."""
    name, indent = match["name"], match["indent"]
    if name in _CODE_DIRECTIVES:
        return f"{indent}.. code::{match['rest']}"
    if name in docutils_directives or name in _WITHOUT_TEXT:
        return match[0]
    return f"{indent}{match['rest'].strip()}"


def _walk(parent: Any, outline: Outline, level: int) -> None:
    for node in parent.children:
        if isinstance(node, nodes.section):
            _walk(node, outline, level + 1)
        elif isinstance(node, nodes.title):
            outline.heading(max(1, level), node.astext())
        elif isinstance(node, nodes.literal_block | nodes.doctest_block):
            outline.code(node.astext())
        elif isinstance(node, nodes.table):
            _table(node, outline)
        elif isinstance(node, nodes.definition_list_item):
            _definition(node, outline, level)
        elif isinstance(node, _LEAVES):
            _links(node, outline)
            outline.block(node.astext())
        elif not isinstance(node, _DROPPED) and hasattr(node, "children"):
            _walk(node, outline, level)


def _links(node: Any, outline: Outline) -> None:
    for reference in node.findall(nodes.reference):
        outline.link(reference.get("refuri", ""))


def _definition(item: Any, outline: Outline, level: int) -> None:
    terms = [child.astext() for child in item.children if isinstance(child, nodes.term)]
    for child in item.children:
        if isinstance(child, nodes.definition):
            first = child.children[0] if child.children else None
            if isinstance(first, nodes.paragraph):
                _links(first, outline)
                outline.block(f"{', '.join(terms)}: {first.astext()}")
                child.remove(first)
            _walk(child, outline, level)


def _table(table: Any, outline: Outline) -> None:
    rows = [[entry.astext() for entry in row.children] for row in table.findall(nodes.row)]
    _links(table, outline)
    outline.table(table_lines(rows, header=any(True for _ in table.findall(nodes.thead))))
