"""Keep passages in one language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.steps.base import Dropped, Kept, Step

__all__ = ["KeepLanguage"]


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
            if not passage.language:
                yield Kept(passage, {"of unknown language": 1}, sample=passage.text)
            elif passage.language == self.language:
                yield passage
            else:
                yield Dropped(f"in {passage.language!r}, not in {self.language!r}", sample=passage.text)
