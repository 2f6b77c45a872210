"""Documents for tests of readers: made on the spot, and read into plain values."""

import io
import zipfile

import docx
from fpdf import FPDF, XPos, YPos

from llamafarm_ray.data.readers import reader_for


def read(path, data):
    """Read a document by the reader of its extension."""
    return reader_for(path).read(data, path)


def outline(document):
    """The blocks of a document by heading path."""
    found = {}
    for section in document.sections:
        found.setdefault(section.headings, []).extend(section.blocks)
    return found


def blocks(path, data):
    """The blocks of a document, in order."""
    return [block for section in read(path, data).sections for block in section.blocks]


def pdf(write, **options):
    """A PDF that ``write`` fills."""
    document = FPDF(**options)
    document.set_font("helvetica", size=11)
    write(document)
    return bytes(document.output())


def pdf_line(document, text, size=11):
    """Add a line in a font of ``size`` points."""
    document.set_font("helvetica", size=size)
    document.cell(0, 0.73 * size, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def word(write):
    """A DOCX file that ``write`` fills."""
    document = docx.Document()
    write(document)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def zipped(parts, compression=zipfile.ZIP_DEFLATED):
    """A ZIP file of these parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()
