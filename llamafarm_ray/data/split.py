"""Assignment of examples to the training and validation splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from llamafarm_ray.config.sections.dataset import HoldOut
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.errors import InputError

__all__ = ["FEW_DOCUMENTS", "Split", "SplitRow", "choose_split", "hold_out", "prompt_digest", "split_existing"]

FEW_DOCUMENTS = 20
"""Fewer are a small corpus, of which every document has to be trained to be known."""


class SplitRow(NamedTuple):
    """The parts of an example that the split needs.

    Args:
        fact: shared by the phrasings of one question.
        document: the path of its source; empty if it is not known.
        passage: anything that identifies its passage among those of all documents; empty if it is not known.
    """

    id: str
    fact: str
    document: str = ""
    passage: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """The ids of the validation examples, and the kind of thing that they share with no training example.

    ``documents``: no document with a held-out question is trained on. ``passages``: no passage with one is, but its
    document is. ``facts``: a held-out fact is not trained on, its passage may be. ``phrasings``: each held-out question
    is another phrasing of a fact that stays in training, so validation measures how well facts were learnt; all other
    kinds measure how the model does on what it has not seen. ``nothing``: there is no validation.
    """

    validation: frozenset[str]
    held_out: Literal["documents", "passages", "facts", "phrasings", "nothing"]


def choose_split(
    rows: Iterable[SplitRow | tuple[str, ...]], *, ratio: float, seed: int, hold_out: HoldOut = "auto"
) -> Split:
    """Choose the validation examples by digests and the seed: the order of ``rows`` doesn't matter.

    A document is held out if the digest of its path and the seed is in the lowest ``ratio`` of all digests. So another
    document moves none, as long as there is one on each side. The share of the examples differs from ``ratio`` as the
    documents' sizes do.

    Args:
        rows: every example.
        ratio: share to hold out, 0 to 1; above 0 it is at least one example, and at least one stays.
        seed: another seed, another choice.
        hold_out: ``phrasings``: of facts with several phrasings some, of others whole facts. ``documents``; where
            there is one only, passages, else facts. ``auto``: phrasings where facts have several and there are fewer
            than `FEW_DOCUMENTS` documents; else documents, or passages where ``ratio`` is less than one document.
    """
    examples = list({row[0]: SplitRow(*row) for row in rows}.values())
    if ratio <= 0 or len(examples) < 2:  # one for each side
        return Split(frozenset(), "nothing")
    documents = {row.document for row in examples} - {""}
    facts = Counter(row.fact for row in examples)
    auto_phrasings = hold_out == "auto" and len(documents) < FEW_DOCUMENTS and max(facts.values()) > 1
    if hold_out == "phrasings" or auto_phrasings:
        return _by_phrasings(examples, ratio, seed)
    is_share = hold_out == "documents" or len(documents) * ratio >= 1
    if is_share and len(documents) > 1:
        return Split(_of_groups(examples, [row.document for row in examples], ratio, seed), "documents")
    if len({row.passage for row in examples} - {""}) > 1:
        return Split(_of_groups(examples, [row.passage for row in examples], ratio, seed), "passages")
    return _by_phrasings(examples, ratio, seed, only_facts=True)


def _by_phrasings(rows: Sequence[SplitRow], ratio: float, seed: int, *, only_facts: bool = False) -> Split:
    """Hold out phrasings, of which one of each fact stays; whole facts where none has a second phrasing.

    Each row is held out by its own digest, apart from the one of its fact with the highest digest. So added rows move
    no other ones, and facts with one phrasing make the share smaller than ``ratio``.
    """
    places = {row.id: _place(row.id, seed) for row in rows}
    stays: dict[str, str] = {}
    for row in rows:
        best = stays.get(row.fact)
        if best is None or (places[row.id], row.id) > (places[best], best):
            stays[row.fact] = row.id
    spare = places.keys() - stays.values()
    if not spare:
        return Split(_lowest(places, ratio), "facts")
    if only_facts and len(stays) > 1:
        return Split(_of_groups(rows, [row.fact for row in rows], ratio, seed), "facts")
    chosen = frozenset(row_id for row_id in spare if places[row_id] < ratio)
    return Split(chosen or frozenset([min(spare, key=lambda row_id: (places[row_id], row_id))]), "phrasings")


def _of_groups(rows: Sequence[SplitRow], groups: Sequence[str], ratio: float, seed: int) -> frozenset[str]:
    """Return the ids of the rows of held-out groups. Rows without a group stay in training."""
    chosen = _lowest({group: _place(group, seed) for group in set(groups) - {""}}, ratio)
    return frozenset(row.id for row, group in zip(rows, groups, strict=True) if group in chosen)


def _place(name: str, seed: int) -> float:
    """Return a digest of a name and the seed as a number, 0 to 1."""
    return int(text_digest([str(seed), name])[:16], 16) / 2**64


def _lowest(places: Mapping[str, float], ratio: float) -> frozenset[str]:
    """Return the names below ``ratio``; other names don't decide about one.

    Only where all would be on one side, the lowest is chosen, or the highest is not.
    """
    ordered = sorted(places, key=lambda name: (places[name], name))
    chosen = [name for name in ordered if places[name] < ratio] or ordered[:1]
    return frozenset(chosen if len(chosen) < len(ordered) else ordered[:-1])


def split_existing(rows: Sequence[tuple[str, str, str]], *, ratio: float, seed: int) -> Split:
    """Choose the validation rows of rows that exist: by document where ``ratio`` is one at least, else by prompt.

    Args:
        rows: (id, source document, prompt) of each; the document is empty where it is not known.
        ratio: see `hold_out`.
        seed: likewise.

    Raises:
        InputError: see `hold_out`.
    """
    documents = {document for _, document, _ in rows} - {""}
    if len(documents) > 1 and len(documents) * ratio >= 1:
        chosen = _lowest({document: _place(document, seed) for document in documents}, ratio)
        return Split(frozenset(row_id for row_id, document, _ in rows if document in chosen), "documents")
    return Split(hold_out(((row_id, prompt) for row_id, _, prompt in rows), ratio=ratio, seed=seed), "facts")


def hold_out(rows: Iterable[tuple[str, str]], *, ratio: float, seed: int) -> frozenset[str]:
    """Choose the validation rows of a dataset that is not split, by a digest of their prompts and the seed.

    Rows with one prompt stay together, so that no answer to a validation prompt is trained. A prompt is held out if
    its digest is in the lowest ``ratio`` of all digests, so rows that are added move none, as long as there is one on
    each side.

    Args:
        rows: (id, prompt) of every row, see `prompt_digest`.
        ratio: share of the prompts to hold out, above 0; it is at least one, and one at least stays.
        seed: another seed, another choice.

    Returns:
        The ids of the validation rows.

    Raises:
        InputError: all rows have one prompt.
    """
    ids_of: dict[str, set[str]] = defaultdict(set)
    for row_id, prompt in rows:
        ids_of[prompt].add(row_id)
    if len(ids_of) < 2:  # one for each side
        raise InputError(
            "dataset.validation.split_ratio: rows to hold out need at least two different prompts.",
            hint="Give more rows, or set it to 0.",
        )
    chosen = _lowest({prompt: _place(prompt, seed) for prompt in ids_of}, ratio)
    return frozenset(row_id for prompt in chosen for row_id in ids_of[prompt])


def prompt_digest(row: Mapping[str, Any]) -> str:
    """Return a digest of a row's prompt: of a chat without its last answer, of a match's anchor, of a whole text."""
    if row.get("messages") is None:
        return text_digest([row.get("anchor") or row.get("text") or row["id"]])
    turns = list(row["messages"])
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return text_digest(part for turn in turns for part in (turn["role"], turn["content"]))
