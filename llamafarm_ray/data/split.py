"""Split: which examples are held out for validation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llamafarm_ray.data.text import text_digest

__all__ = ["Split", "choose_split"]


@dataclass(frozen=True, slots=True)
class Split:
    """The ids of the validation examples, and what is held out with them.

    ``phrasings``: each validation question is another phrasing of a fact that stays in training, so validation tells
    whether the facts were learnt. ``facts``: no fact had a second phrasing, so whole facts are held out, and
    validation tells how the model does on what it has never seen. ``nothing``: no validation.
    """

    validation: frozenset[str]
    held_out: Literal["phrasings", "facts", "nothing"]


def choose_split(rows: Iterable[tuple[str, str]], *, ratio: float, seed: int) -> Split:
    """Choose the validation examples by a digest of their id and the seed: the order of ``rows`` doesn't matter.

    Where facts have several phrasings, one of each stays in training: then validation can be smaller than asked for.

    Args:
        rows: (id, fact) of every example.
        ratio: share of the examples to hold out, 0 to 1; above 0 it is at least one, and at least one stays.
        seed: another seed, another choice.
    """
    facts = dict(rows)
    if ratio <= 0 or len(facts) < 2:  # noqa: PLR2004  one for each side
        return Split(frozenset(), "nothing")
    num_wanted = min(max(1, round(ratio * len(facts))), len(facts) - 1)
    ordered = sorted(facts, key=lambda row_id: text_digest([str(seed), row_id]))
    kept: set[str] = set()
    spare = []
    for row_id in ordered:
        if facts[row_id] in kept:
            spare.append(row_id)
        kept.add(facts[row_id])
    if spare:
        return Split(frozenset(spare[:num_wanted]), "phrasings")
    return Split(frozenset(ordered[:num_wanted]), "facts")
