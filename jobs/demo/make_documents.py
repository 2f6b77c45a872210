"""Writes the demo's PDF and DOCX documents from the Markdown under ``sources/``.

``sources/<edition>/<folder>/<name>.pdf.md`` becomes ``<edition>/<folder>/<name>.pdf``, and ``.docx.md`` likewise.
The same source gives the same bytes, so the committed documents change only when their text does::

    python jobs/demo/make_documents.py
"""

from __future__ import annotations

import datetime as dt
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import docx
import fpdf

__all__ = ["Block", "main", "make_documents", "make_docx", "make_pdf", "parse"]

HERE = Path(__file__).resolve().parent
PUBLISHER = "Wrenholm Harbour House"
# Both formats record when they were made; a fixed moment keeps their bytes equal.
MADE_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_HEADING_POINTS = {1: 20, 2: 14}
_BODY_POINTS = 11


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of a source: a heading (``level`` 1 or 2), a paragraph, or one line ``term: value``."""

    kind: Literal["heading", "paragraph", "term"]
    text: str
    level: int = 0


def parse(source: str) -> Iterator[Block]:
    """Read the Markdown of a source: ``#`` headings, paragraphs of one line, and blocks of ``term: value`` lines."""
    for chunk in re.split(r"\n\s*\n", source.strip()):
        heading = re.fullmatch(r"(#{1,2}) (.+)", chunk)
        lines = chunk.splitlines()
        if heading:
            yield Block("heading", heading[2], level=len(heading[1]))
        elif len(lines) > 1:
            yield from (Block("term", line) for line in lines)
        else:
            yield Block("paragraph", chunk)


class _Page(fpdf.FPDF):  # type: ignore[misc]  # fpdf2 has no types
    """An A4 page with its number at the foot."""

    def footer(self) -> None:
        self.set_y(-15)
        self.set_font("Helvetica", size=8)
        self.cell(0, 8, f"Page {self.page_no()}", align="C")


def make_pdf(blocks: list[Block]) -> bytes:
    """Lay ``blocks`` out as a PDF with larger, bold headings.

    Returns:
        the file's bytes, equal for equal blocks.
    """
    page = _Page(format="A4")
    page.set_creation_date(MADE_AT)
    page.set_author(PUBLISHER)
    page.set_title(next(block.text for block in blocks if block.kind == "heading"))
    page.set_margins(25, 22, 25)
    page.add_page()
    for before, block in zip([None, *blocks], blocks, strict=False):
        if block.kind == "heading":
            page.ln(0 if before is None else 4)
            page.set_font("Helvetica", style="B", size=_HEADING_POINTS[block.level])
        else:
            page.set_font("Helvetica", size=_BODY_POINTS)
            page.ln(3 if before is None or before.kind != block.kind else 0)
        # Left-aligned: justified lines stretch the spaces that a text extractor has to recognise.
        page.multi_cell(0, 6, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
    return bytes(page.output())


def make_docx(blocks: list[Block]) -> bytes:
    """Write ``blocks`` as a Word document with heading styles and a two-column table for the terms.

    Returns:
        the file's bytes, equal for equal blocks.
    """
    document = docx.Document()
    terms = [block.text.split(": ", maxsplit=1) for block in blocks if block.kind == "term"]
    for block in blocks:
        if block.kind == "heading":
            document.add_heading(block.text, level=block.level)
        elif block.kind == "paragraph":
            document.add_paragraph(block.text)
    if terms:
        table = document.add_table(rows=0, cols=2)
        for term, value in terms:
            cells = table.add_row().cells
            cells[0].text, cells[1].text = term, value
    properties = document.core_properties
    properties.author = properties.last_modified_by = PUBLISHER
    properties.title = next(block.text for block in blocks if block.kind == "heading")
    properties.comments = ""
    properties.created = properties.modified = MADE_AT.replace(tzinfo=None)
    buffer = io.BytesIO()
    document.save(buffer)
    return _same_zip(buffer.getvalue())


def _same_zip(data: bytes) -> bytes:
    """``data`` with every entry's time set to `MADE_AT`: python-docx stamps the present moment."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, date_time=MADE_AT.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, old.read(name))
    return buffer.getvalue()


_WRITERS = {".pdf": make_pdf, ".docx": make_docx}


def make_documents(sources: Path, output: Path) -> list[Path]:
    """Write every source below ``sources`` as the document its name says, at the same place below ``output``.

    Returns:
        the written files, sorted.
    """
    written = []
    for source in sorted(sources.rglob("*.md")):
        target = output / source.relative_to(sources).with_suffix("")
        blocks = list(parse(source.read_text(encoding="utf-8")))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_WRITERS[target.suffix](blocks))
        written.append(target)
    return written


def main() -> None:
    """Write both editions, ``corpus/`` and ``revision/``."""
    for path in make_documents(HERE / "sources", HERE):
        sys.stdout.write(f"{path.relative_to(HERE)}\n")


if __name__ == "__main__":
    main()
