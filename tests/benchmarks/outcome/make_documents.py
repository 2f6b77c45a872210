"""Lays out the ferry company's texts as people get them: the passengers' handbook as a PDF, the crew's as a DOCX.

Run ``python tests/benchmarks/outcome/make_documents.py FOLDER``, or call ``make(folder)``. The texts are in
``ferry/sources``, in the little Markdown that ``blocks`` reads: headings, paragraphs, numbered items, tables and
footnotes. Both files have the same bytes each time.
"""

import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from docx import Document
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import FontFace

SOURCES = Path(__file__).parent / "ferry" / "sources"
PRINTED = datetime(2024, 3, 11, 9, 30, tzinfo=UTC)
BOLD = FontFace(emphasis="BOLD")
FOOTNOTES = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the document."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; ``[^1]`` in it is the mark of a footnote."""

    text: str


@dataclass(frozen=True)
class Items:
    """A numbered list."""

    texts: list[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first row names the columns."""

    rows: list[list[str]]


@dataclass(frozen=True)
class Footnote:
    """What stands at the foot of the page for a mark."""

    mark: str
    text: str


Block = Heading | Paragraph | Items | Table | Footnote


def blocks(source: str) -> list[Block]:
    """The parts of a text, in order."""
    return [block(part.strip().splitlines()) for part in re.split(r"\n\s*\n", source) if part.strip()]


def block(lines: list[str]) -> Block:
    """One part, known by how it begins."""
    first = lines[0]
    if first.startswith("#"):
        hashes, text = first.split(" ", 1)
        return Heading(len(hashes), text)
    if first.startswith("|"):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return Table([rows[0], *rows[2:]])
    if re.match(r"\d+\. ", first):
        return Items([line.split(" ", 1)[1] for line in lines])
    if note := re.match(r"\[\^(\w+)\]: (.*)", first):
        return Footnote(note[1], note[2])
    return Paragraph(" ".join(lines))


class Handbook(FPDF):  # type: ignore[misc]  # read without its types
    """Pages with the company's name above and the number of the page below."""

    def header(self) -> None:
        """The running header, on all pages but the first."""
        if self.page_no() == 1:
            return
        self.set_font("helvetica", size=9)
        self.cell(0, 6, "Sallow Sound Ferry Company", align="L")
        self.set_x(self.l_margin)
        self.cell(0, 6, "Handbook for Passengers", align="R", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.line(self.l_margin, self.get_y(), self.w - self.r_margin, self.get_y())
        self.ln(5)

    def footer(self) -> None:
        """The number of the page."""
        self.set_y(-15)
        self.set_font("helvetica", size=9)
        self.cell(0, 6, f"Page {self.page_no()} of {{nb}}", align="C")


def write_pdf(parts: list[Block], path: Path) -> None:
    """A PDF in Letter format with justified text."""
    pdf = Handbook(format="letter")
    pdf.set_margin(25)
    pdf.set_auto_page_break(auto=True, margin=25)
    pdf.set_creation_date(PRINTED)
    pdf.add_page()
    for part in parts:
        add_to_pdf(pdf, part)
    pdf.output(str(path))


def add_to_pdf(pdf: Handbook, part: Block) -> None:
    """One part, below what is there."""
    match part:
        case Heading(level=1, text=text):
            pdf.set_title(text)
            pdf.set_font("times", style="B", size=22)
            pdf.multi_cell(0, 12, text, align="C", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            pdf.ln(4)
        case Heading(text=text):
            pdf.ln(2)
            pdf.set_font("helvetica", style="B", size=13)
            pdf.multi_cell(0, 8, text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            pdf.ln(1)
        case Paragraph(text=text):
            pdf.set_font("times", size=11.5)
            pdf.multi_cell(0, 6, text, align="J", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            pdf.ln(3)
        case Table(rows=rows):
            pdf.set_font("times", size=11)
            with pdf.table(col_widths=(3, 1, 1), width=120, line_height=7, headings_style=BOLD) as table:
                for row in rows:
                    table.row(row)
            pdf.ln(4)
        case _:
            raise TypeError(f"the PDF has no layout for {part}")


def write_docx(parts: list[Block], path: Path) -> None:
    """A Word document in its usual styles."""
    document = Document()
    document.core_properties.title = next(part.text for part in parts if isinstance(part, Heading))
    document.core_properties.author = "Sallow Sound Ferry Company"
    document.core_properties.created = document.core_properties.modified = PRINTED
    notes = {part.mark: part.text for part in parts if isinstance(part, Footnote)}
    for part in parts:
        match part:
            case Heading(level=level, text=text):
                document.add_heading(text, level - 1)
            case Paragraph(text=text):
                add_with_marks(document.add_paragraph(), text)
            case Items(texts=texts):
                for text in texts:
                    document.add_paragraph(text, style="List Number")
            case Table(rows=rows):
                table = document.add_table(len(rows), len(rows[0]), style="Table Grid")
                for cells, row in zip(table.rows, rows, strict=True):
                    for cell, text in zip(cells.cells, row, strict=True):
                        cell.text = text
                document.add_paragraph()
            case Footnote():
                pass
    if notes:
        add_footnotes(document, notes)
    saved = BytesIO()
    document.save(saved)
    with ZipFile(saved) as archive, ZipFile(path, "w", ZIP_DEFLATED) as dated:
        for name in archive.namelist():
            dated.writestr(ZipInfo(name, PRINTED.timetuple()[:6]), archive.read(name), ZIP_DEFLATED)


def add_with_marks(paragraph: Document, text: str) -> None:
    """Text, in which each mark of a footnote becomes a reference to it."""
    for number, piece in enumerate(re.split(r"\[\^(\w+)\]", text)):
        run = paragraph.add_run("" if number % 2 else piece)
        if number % 2:
            run.font.superscript = True
            run.element.append(parse_xml(f'<w:footnoteReference {nsdecls("w")} w:id="{piece}"/>'))


def add_footnotes(document: Document, notes: dict[str, str]) -> None:
    """The part with the footnotes, which python-docx doesn't write by itself."""
    line = "<w:p><w:r><w:{0}/></w:r></w:p>"
    texts = [
        f'<w:footnote w:type="separator" w:id="-1">{line.format("separator")}</w:footnote>',
        f'<w:footnote w:type="continuationSeparator" w:id="0">{line.format("continuationSeparator")}</w:footnote>',
    ]
    texts += [
        f'<w:footnote w:id="{mark}"><w:p><w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:footnoteRef/></w:r>'
        f'<w:r><w:t xml:space="preserve"> {escape(text)}</w:t></w:r></w:p></w:footnote>'
        for mark, text in notes.items()
    ]
    blob = f'<?xml version="1.0" encoding="UTF-8"?><w:footnotes {nsdecls("w")}>{"".join(texts)}</w:footnotes>'
    part = Part(PackURI("/word/footnotes.xml"), FOOTNOTES, blob.encode(), document.part.package)
    document.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)


def make(folder: Path) -> None:
    """Writes passenger_handbook.pdf and standing_instructions.docx into a folder, which may be new."""
    folder.mkdir(parents=True, exist_ok=True)
    write_pdf(blocks((SOURCES / "passenger_handbook.md").read_text()), folder / "passenger_handbook.pdf")
    write_docx(blocks((SOURCES / "standing_instructions.md").read_text()), folder / "standing_instructions.docx")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
