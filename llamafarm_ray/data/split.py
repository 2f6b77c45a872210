"""The examples that are held out for validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llamafarm_ray.data.text import text_digest
from llamafarm_ray.errors import InputError

__all__ = ["Split", "choose_split", "hold_out", "prompt_digest"]


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


def hold_out(rows: Iterable[tuple[str, str]], *, ratio: float, seed: int) -> frozenset[str]:
    """Choose the validation rows of a dataset that is not split, by a digest of their prompts and the seed.

    Rows with one prompt stay together, so that no answer to a validation prompt is trained. Neither the order of
    ``rows`` nor the rest of them decides between two prompts.

    Args:
        rows: (id, prompt) of every row, see `prompt_digest`.
        ratio: share of the rows to hold out, above 0; it is at least one row, and one prompt at least stays.
        seed: another seed, another choice.

    Returns:
        The ids of the validation rows.

    Raises:
        InputError: all rows have one prompt.
    """
    ids_of: dict[str, set[str]] = defaultdict(set)
    for row_id, prompt in rows:
        ids_of[prompt].add(row_id)
    if len(ids_of) < 2:  # noqa: PLR2004  one for each side
        raise InputError(
            "dataset.validation.split_ratio: rows to hold out need at least two different prompts.",
            hint="Give more rows, or set it to 0.",
        )
    num_wanted = max(1, round(ratio * sum(map(len, ids_of.values()))))
    chosen: set[str] = set()
    for prompt in sorted(ids_of, key=lambda prompt: text_digest([str(seed), prompt]))[:-1]:
        if len(chosen) >= num_wanted:
            break
        chosen |= ids_of[prompt]
    return frozenset(chosen)


def prompt_digest(row: Mapping[str, Any]) -> str:
    """Return a digest of a row's prompt: of a chat without its last answer, of a match's anchor, of a whole text."""
    if row.get("messages") is None:
        return text_digest([row.get("anchor") or row.get("text") or row["id"]])
    turns = list(row["messages"])
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return text_digest(part for turn in turns for part in (turn["role"], turn["content"]))
