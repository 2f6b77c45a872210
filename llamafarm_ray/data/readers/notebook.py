"""Jupyter notebooks: Markdown and code cells; outputs are left out."""

from __future__ import annotations

import json

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader
from llamafarm_ray.data.readers.markdown import add_markdown
from llamafarm_ray.data.readers.text import require_text

__all__ = ["NotebookReader"]


class NotebookReader(Reader):
    """``.ipynb`` files of nbformat 3 and later; the first heading is the title."""

    name = "Jupyter notebook"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        try:
            notebook = json.loads(require_text(data, outline))
            cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        except (json.JSONDecodeError, RecursionError, KeyError, IndexError, TypeError) as error:
            raise BrokenDocumentError(f"it is not a valid notebook ({type(error).__name__}: {error}).") from error
        for cell in cells:
            kind = cell.get("cell_type")
            text = _source(cell)
            if kind == "markdown":
                add_markdown(text, outline)
            elif kind == "code":
                outline.code(text)
            elif kind == "heading":  # nbformat 3
                outline.heading(int(cell.get("level", 1)), text)
        return outline.first_heading


def _source(cell: dict[str, object]) -> str:
    source = cell.get("source", cell.get("input", ""))
    return "".join(map(str, source)) if isinstance(source, list) else str(source)
