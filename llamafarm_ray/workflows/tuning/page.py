"""A sweep's page and table, written as it goes."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llamafarm_ray.storage.local import write_whole
from llamafarm_ray.tuning.explain import explain
from llamafarm_ray.tuning.journal import Journal, SweepFacts, best_of
from llamafarm_ray.tuning.report import SweepPage, write_page
from llamafarm_ray.tuning.space import Space

__all__ = ["Page"]

_PAGE_S: Final = 5.0


@dataclass(slots=True)
class Page:
    """The sweep's page and table, written as it goes."""

    folder: Path
    space: Space
    facts: SweepFacts
    journal: Journal
    reasons: list[str] = field(default_factory=list)
    _written_at: float = -math.inf
    _seen: int = -1

    def write(self, *, live: bool = False, ended_because: str = "", seconds: float = 0.0) -> list[str]:
        """Write ``report.html`` and ``trials.jsonl``; while the sweep runs, not all the time. Returns the words."""
        records = list(self.journal.records.values())
        ended = sum(record.state != "running" for record in records)
        if live and (ended == self._seen or time.monotonic() - self._written_at < _PAGE_S):
            return []
        self._seen, self._written_at = ended, time.monotonic()
        ranked = best_of(self.journal.records, lower_is_better=self.facts.lower_is_better)
        words = explain(records, ranked, self.space.domains, metric=self.facts.metric)
        order = [*ranked, *(record for record in records if record not in ranked)]
        lines = [json.dumps(record.to_dict(), ensure_ascii=False) + "\n" for record in order]
        write_whole(self.folder / "trials.jsonl", "".join(lines))
        page = SweepPage(
            name=self.facts.name,
            metric=self.facts.metric,
            lower_is_better=self.facts.lower_is_better,
            domains=self.space.domains,
            records=records,
            ranked=ranked,
            words=words,
            reasons=self.reasons,
            ended_because="" if live else ended_because,
            seconds=seconds,
            is_running=live,
        )
        write_page(self.folder / "report.html", page)
        return words
