"""Source code: a code block for each function or class, and its documentation as text."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator

from llamafarm_ray.data.readers.base import EmptyDocumentError, Outline, Reader
from llamafarm_ray.data.readers.text import require_text, text_blocks

__all__ = ["PythonReader", "SourceCodeReader"]

_DOC_COMMENT = re.compile(r"^[ \t]*/\*\*(.*?)\*/[ \t]*\n?|((?:^[ \t]*//[/!][^\n]*\n?)+)", re.DOTALL | re.MULTILINE)
_LEADER = re.compile(r"^[ \t]*(?:\*|//[/!])?[ \t]?", re.MULTILINE)
_CLOSING = re.compile(r"[\])}]|end\b|else\b|fi\b|done\b|esac\b")
_MIN_LINES = 8
_MAX_LINE_CHARS = 400  # on average


class SourceCodeReader(Reader):
    """Source files of any language: cut at blank lines before lines without indentation. Doc comments are text."""

    name = "source code"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        text = require_text(data, outline)
        if len(text) > _MAX_LINE_CHARS * (text.count("\n") + 1):
            raise EmptyDocumentError("it is minified code.")
        _add_code(text, outline)
        return ""


class PythonReader(Reader):
    """``.py`` files: a section for each function and class, its docstring as text."""

    name = "Python"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; code that is not Python of this version is read as other source code."""
        text = require_text(data, outline)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                module = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            _add_code(text, outline)
            return ""
        _docstring(module, outline)
        lines = text.splitlines()
        rest: list[str] = []
        start = 0
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
                rest += lines[start:first]
                outline.code("\n".join(rest))
                rest = []
                outline.heading(1, node.name)
                _docstring(node, outline)
                if isinstance(node, ast.ClassDef):
                    for inner in node.body:
                        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                            _docstring(inner, outline)
                start = node.end_lineno or node.lineno
                outline.code("\n".join(lines[first:start]))
        outline.code("\n".join([*rest, *lines[start:]]))
        return ""


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, outline: Outline) -> None:
    for block in text_blocks(inspect.cleandoc(ast.get_docstring(node) or "")):
        outline.block(block)


def _add_code(text: str, outline: Outline) -> None:
    for chunk in _chunks(text.replace("\r\n", "\n").expandtabs(4).split("\n")):
        for comment in _DOC_COMMENT.finditer(chunk):
            for block in text_blocks(_LEADER.sub("", comment[1] or comment[2]).strip()):
                outline.block(block)
        outline.code(chunk)


def _chunks(lines: list[str]) -> Iterator[str]:
    chunk: list[str] = []
    for index, line in enumerate(lines):
        is_start = line[:1].strip() and not _CLOSING.match(line) and index and not lines[index - 1].strip()
        if is_start and len(chunk) >= _MIN_LINES:
            yield "\n".join(chunk)
            chunk = []
        chunk.append(line)
    yield "\n".join(chunk)
