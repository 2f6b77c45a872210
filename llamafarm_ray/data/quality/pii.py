"""Handle personal data in passages, before examples are made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote

from llamafarm_ray.config.sections.quality import PiiAction
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.steps.base import Dropped, Kept, Step
from llamafarm_ray.text.pii.find import find_pii, redact
from llamafarm_ray.text.pii.finding import Finding, PiiKind

__all__ = ["HandlePii"]

_PRIVATE_LINK = "link with personal data left out"


class HandlePii(Step[Passage, Passage]):
    """Finds personal data, counts it by kind, and does what ``action`` says with ``kinds``.

    Args:
        action: ``redact`` puts ``[EMAIL]`` and the like in its place, in headings and metadata too; ``drop`` drops the
            passage; ``tag`` names the kinds in the column ``pii`` of the examples; ``keep`` counts only.
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
        for row in rows:
            passage, num_private = self._without_private_links(row)
            texts = (passage.text, passage.title, *passage.headings, *(value for _, value in passage.metadata))
            findings = [find_pii(text, regions=self.regions) for text in texts]
            found = Counter(finding.kind for in_text in findings for finding in in_text)
            affected = sorted(self.kinds & found.keys())
            sample = redact(passage.text, findings[0])
            if not found:
                yield Kept(passage, {_PRIVATE_LINK: num_private}) if num_private else passage
            elif affected and self.action == "drop":
                yield Dropped(f"has personal data: {', '.join(affected)}", sample=sample)
            else:
                notes = _notes(found, self.action, self.kinds)
                notes |= {_PRIVATE_LINK: num_private} if num_private else {}
                yield Kept(self._changed(passage, texts, findings, affected), notes, sample=sample)

    def _without_private_links(self, passage: Passage) -> tuple[Passage, int]:
        """Return a passage without links that hold personal data of the kinds, where it must go; and their number."""
        if self.action not in {"redact", "drop"} or not passage.links:
            return passage, 0
        kept = tuple(
            link
            for link in passage.links
            if not any(finding.kind in self.kinds for finding in find_pii(unquote(link), regions=self.regions))
        )
        return replace(passage, links=kept), len(passage.links) - len(kept)

    def _changed(
        self, passage: Passage, texts: Sequence[str], findings: list[list[Finding]], affected: list[str]
    ) -> Passage:
        if self.action == "tag":
            return replace(passage, pii=tuple(affected))
        if self.action != "redact" or not affected:
            return passage
        text, title, *others = (
            redact(text, [finding for finding in in_text if finding.kind in self.kinds])
            for text, in_text in zip(texts, findings, strict=True)
        )
        headings, values = others[: len(passage.headings)], others[len(passage.headings) :]
        metadata = tuple(zip((name for name, _ in passage.metadata), values, strict=True))
        return replace(passage, text=text, title=title, headings=tuple(headings), metadata=metadata)


def _notes(found: Mapping[PiiKind, int], action: PiiAction, kinds: Collection[str]) -> dict[str, int]:
    verb = {"redact": "redacted", "tag": "tagged"}.get(action, "kept")
    return {f"{kind} {verb if kind in kinds else 'kept'}": count for kind, count in found.items()}
