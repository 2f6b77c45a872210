"""Excel sheets (XLSX, XLS), by python-calamine: rows below the name of their sheet."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterable, Sequence

import python_calamine

from llamafarm_ray.data.readers.base import (
    BrokenDocumentError,
    DocumentError,
    EncryptedDocumentError,
    Outline,
    OversizedDocumentError,
    Reader,
)
from llamafarm_ray.data.readers.office.tables import rows_as_lines
from llamafarm_ray.data.readers.package import Package

__all__ = ["SheetsReader"]

_MAX_CELLS = 10_000_000
"""calamine holds a sheet as one block from its first to its last cell, the empty ones too, 32 bytes each."""

_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_CELL = re.compile(rb'\sr="([A-Z]{1,3})(\d{1,7})"')


class SheetsReader(Reader):
    """``.xlsx`` and ``.xls`` files: values as they are stored. Hidden sheets, comments and charts are not read."""

    name = "Excel"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a workbook has no title."""
        if not data.startswith(_OLE_MAGIC):
            _check_package(data)
        elif _ENCRYPTED_STREAM in data:
            raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.")
        try:
            with python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data)) as workbook:
                for sheet in workbook.sheets_metadata:
                    if (
                        sheet.typ == python_calamine.SheetTypeEnum.WorkSheet
                        and sheet.visible == python_calamine.SheetVisibleEnum.Visible
                    ):
                        outline.heading(1, sheet.name)
                        _add_rows(workbook.get_sheet_by_name(sheet.name).iter_rows(), outline)
        except DocumentError:
            raise
        except python_calamine.PasswordError as error:
            raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.") from error
        except (python_calamine.CalamineError, OSError, ValueError) as error:
            raise BrokenDocumentError(f"it is not a valid Excel file ({error}).") from error
        except BaseException as error:  # Rust's PanicException is no Exception, and can't be imported
            if type(error).__name__ != "PanicException":
                raise
            raise BrokenDocumentError(f"it is not a valid Excel file ({error}).") from error
        return ""


def _check_package(data: bytes) -> None:
    """Refuse a workbook with a cell so far out that the block up to it would fill the memory."""
    with Package(data, "XLSX") as package:
        if "[Content_Types].xml" not in package.names:
            raise package.broken("it has no content types")
        for name in package.names:
            if not name.startswith("xl/worksheets/") or not name.endswith(".xml"):
                continue
            cells = set(_CELL.findall(package.read(name)))
            if not cells:
                continue
            width = max(_column(letters) for letters, _ in cells)
            height = max(int(row) for _, row in cells)
            if width * height > _MAX_CELLS:
                raise OversizedDocumentError(
                    f"its sheet {name!r} has {height} rows and {width} columns; {_MAX_CELLS} cells are the limit."
                )


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number


def _add_rows(rows: Iterable[Sequence[object]], outline: Outline) -> None:
    """Add tables; an empty row ends one."""
    table: list[list[str]] = []
    for row in rows:
        cells = [_text(value) for value in row]
        if any(cells):
            table.append(cells)
        else:
            _add_table(table, outline)
            table = []
    _add_table(table, outline)


def _add_table(table: list[list[str]], outline: Outline) -> None:
    used = [column for column in range(max(map(len, table), default=0)) if any(row[column] for row in table)]
    outline.table(rows_as_lines([[row[column] for column in used] for row in table]))


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:  # exact as a float
        return str(int(value))
    if isinstance(value, dt.datetime):
        return value.isoformat(" ", "minutes")
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)
