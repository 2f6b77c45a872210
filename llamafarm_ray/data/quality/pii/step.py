"""Handle personal data in passages, before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from llamafarm_ray.config.quality import PiiAction
from llamafarm_ray.data.quality.pii.find import find_pii, redact
from llamafarm_ray.data.rows import Passage
from llamafarm_ray.data.steps.base import Dropped, Kept, Step

__all__ = ["HandlePii"]


class HandlePii(Step[Passage, Passage]):
    """Finds personal data, counts it by kind, and does what ``action`` says with ``kinds``.

    Args:
        action: ``redact`` puts ``[EMAIL]`` and the like in its place, in headings too; ``drop`` drops the passage;
            ``keep`` counts only.
        kinds: the kinds that the action is for. The others are kept and counted.
        regions: countries whose phone numbers are recognized without a country prefix.
    """

    name = "pii"

    def __init__(self, action: PiiAction, kinds: Collection[str], regions: Sequence[str] = ()) -> None:
        self.action = action
        self.kinds = frozenset(kinds)
        self.regions = regions

    def apply(self, rows: Iterable[Passage]) -> Iterator[Passage | Dropped | Kept[Passage]]:
        """See :meth:`Step.apply`."""
        for passage in rows:
            found: Counter[str] = Counter()
            texts = [self._redacted(text, found) for text in (passage.text, passage.title, *passage.headings)]
            affected = sorted(self.kinds & found.keys())
            if not found:
                yield passage
            elif affected and self.action == "drop":
                yield Dropped(f"has personal data: {', '.join(affected)}", sample=texts[0])
            else:
                verb = {"redact": "redacted"}.get(self.action, "kept")
                notes = Counter(
                    {f"{kind} {verb if kind in self.kinds else 'kept'}": count for kind, count in found.items()}
                )
                yield Kept(self._changed(passage, texts), notes, sample=texts[0])

    def _changed(self, passage: Passage, texts: list[str]) -> Passage:
        if self.action != "redact":
            return passage
        return replace(passage, text=texts[0], title=texts[1], headings=tuple(texts[2:]))

    def _redacted(self, text: str, found: Counter[str]) -> str:
        """Return ``text`` without what the action is for, and add what was found."""
        findings = find_pii(text, regions=self.regions)
        found.update(finding.kind for finding in findings)
        return redact(text, [finding for finding in findings if finding.kind in self.kinds])
