"""CSV and TSV: a row is ``header: value; ...``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from llamafarm_ray.data.readers.base import MAX_TEXT_BYTES, BrokenDocumentError, Outline, Reader
from llamafarm_ray.data.readers.records.record import record_line
from llamafarm_ray.data.readers.text import require_text

__all__ = ["CsvReader", "TsvReader"]

_SNIFFED_CHARS = 16 * 1024
_NUMBER = re.compile(r"[-+]?[\d.,:/%\u20ac$\s-]+$")


class CsvReader(Reader):
    """``.csv`` files; the delimiter (comma, semicolon, tab or bar) and the quotes are detected."""

    name = "CSV"
    max_bytes = MAX_TEXT_BYTES

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; a first row of names without a number is the header."""
        text = require_text(data, outline)
        try:
            csv.field_size_limit(max(csv.field_size_limit(), len(text)))
            rows = csv.reader(io.StringIO(text, newline=""), self.dialect(text[:_SNIFFED_CHARS]))
            outline.table(_lines(rows))
        except csv.Error as error:
            raise BrokenDocumentError(f"it is not valid {self.name} ({error}).") from error
        return ""

    def dialect(self, sample: str) -> type[csv.Dialect]:
        """Return the dialect that a sample is in."""
        try:
            return csv.Sniffer().sniff(_whole_lines(sample), delimiters=",;\t|")
        except csv.Error:
            return csv.excel


class TsvReader(CsvReader):
    """``.tsv`` files."""

    name = "TSV"

    def dialect(self, sample: str) -> type[csv.Dialect]:
        """Return the dialect with tabs, quoted if a quote follows one."""
        return csv.excel_tab if '\t"' in sample or sample.startswith('"') else _PlainTabs


class _PlainTabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _whole_lines(sample: str) -> str:
    end = sample.rfind("\n")
    return sample[: end + 1] if end > 0 else sample


def _lines(rows: Iterable[list[str]]) -> Iterator[str]:
    """Yield a line for each row that says something, without the header."""
    header: list[str] | None = None
    first = True
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        if first:
            first = False
            if _is_header(cells):
                header = cells
                continue
        if header is None:
            yield "; ".join(cell for cell in cells if cell)
        else:
            names = header + [""] * (len(cells) - len(header))
            yield _line(names, cells)


def _line(names: list[str], cells: list[str]) -> str:
    return "; ".join(record_line({name: cell}) for name, cell in zip(names, cells, strict=False) if cell)


def _is_header(cells: list[str]) -> bool:
    named = [cell for cell in cells if cell]
    return len(named) == len(set(named)) and len(named) > len(cells) // 2 and not any(map(_NUMBER.match, named))
