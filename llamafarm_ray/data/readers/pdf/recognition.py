"""Text recognition of scanned pages, by Tesseract or a plug-in."""

from __future__ import annotations

import csv
import importlib
import io
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamafarm_ray.data.readers.base import DocumentError
from llamafarm_ray.data.readers.pdf.page import Line, in_reading_order
from llamafarm_ray.data.readers.recognition import engine_of_scans

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

__all__ = ["Recognize", "RecognizedLine", "recognized_lines"]

_DPI = 300
_POINTS_PER_INCH = 72
_TIMEOUT_S = 120
_WORD_LEVEL = "5"
_TESSERACT = "tesseract"
_LEAST_CONFIDENCE = 30.0


@dataclass(frozen=True, slots=True)
class RecognizedLine:
    """A line of text on the image of a page; places are in pixels from the upper left corner."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


Recognize = Callable[[bytes], Iterable[RecognizedLine]]
"""A plug-in: a function from the image of a page, a PNG file of 300 dots an inch, to its lines."""


def recognized_lines(page: PdfPage) -> list[Line]:
    """Return the lines of a scanned page in reading order; none where no engine is set.

    Args:
        page: of PDFium.

    Raises:
        DocumentError: the engine is missing or fails.
    """
    engine = engine_of_scans()
    if not engine:
        return []
    image = io.BytesIO()
    page.render(scale=_DPI / _POINTS_PER_INCH).to_pil().save(image, "PNG")
    name, _, rest = engine.partition(":")
    recognize = _tesseract(rest) if name == _TESSERACT else _plug_in(engine)
    try:
        found = list(recognize(image.getvalue()))
    except DocumentError:
        raise
    except Exception as error:  # a plug-in has errors of its own
        raise DocumentError(f"text recognition by {engine!r} failed ({type(error).__name__}: {error}).") from error
    height, points = page.get_size()[1], _POINTS_PER_INCH / _DPI
    return in_reading_order(
        [
            Line(
                " ".join(line.text.split()),
                line.left * points,
                line.right * points,
                height - line.bottom * points,
                (line.bottom - line.top) * points,
            )
            for line in found
            if line.text.strip()
        ]
    )


def _plug_in(engine: str) -> Recognize:
    module, _, name = engine.partition(":")
    try:
        found: Recognize = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DocumentError(
            f"the plug-in {engine!r} of dataset.source.ocr can't be imported ({error}).",
            hint="Install it on every node, or set 'tesseract'.",
        ) from error
    return found


def _tesseract(languages: str) -> Recognize:
    def recognize(png: bytes) -> Iterator[RecognizedLine]:
        command = [_TESSERACT, "stdin", "stdout", "--dpi", str(_DPI), *(["-l", languages] if languages else []), "tsv"]
        try:
            done = subprocess.run(command, input=png, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except FileNotFoundError as error:
            raise DocumentError(
                "Tesseract is not installed on this node, which dataset.source.ocr asks for.",
                hint="Install it (apt install tesseract-ocr), or unset dataset.source.ocr.",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise DocumentError(f"Tesseract took more than {_TIMEOUT_S} s for a page.") from error
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[:200]
            raise DocumentError(f"Tesseract failed ({said}).", hint="Check the languages: tesseract --list-langs")
        yield from _lines_in(done.stdout.decode(errors="replace"))

    return recognize


def _lines_in(table: str) -> Iterator[RecognizedLine]:
    """Yield the lines of Tesseract's table of words."""
    lines: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
        is_word = row["level"] == _WORD_LEVEL and (row["text"] or "").strip()
        if is_word and float(row["conf"]) >= _LEAST_CONFIDENCE:
            lines.setdefault((row["block_num"], row["par_num"], row["line_num"]), []).append(row)
    for words in lines.values():
        lefts, tops = [int(word["left"]) for word in words], [int(word["top"]) for word in words]
        yield RecognizedLine(
            " ".join(word["text"].strip() for word in words),
            min(lefts),
            min(tops),
            max(left + int(word["width"]) for left, word in zip(lefts, words, strict=True)),
            max(top + int(word["height"]) for top, word in zip(tops, words, strict=True)),
        )
