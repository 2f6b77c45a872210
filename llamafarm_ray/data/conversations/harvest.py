"""Conversations as checked examples: the steps that are for single examples, without passages and questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.conversations.conversation import Conversation
from llamafarm_ray.data.conversations.reading import conversations_at
from llamafarm_ray.data.harvest import Harvest
from llamafarm_ray.data.quality.filters import example_filters
from llamafarm_ray.data.quality.pii import HandlePiiInMessages, find_pii, redact
from llamafarm_ray.data.report import Stage, Tell
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.sources import Sources
from llamafarm_ray.data.steps import CheckLength, CheckSubstance, Dropped, Ledger, Step

__all__ = ["harvest_conversations"]


class _Read(Step[Conversation, Example]):
    """Makes an example of each conversation that can be used."""

    name = "conversations"

    def apply(self, rows: Iterable[Conversation]) -> Iterator[Example | Dropped]:
        for row in rows:
            if row.dropped:
                # What people wrote has not been searched for personal data yet.
                yield Dropped(row.dropped, sample=redact(row.sample, find_pii(row.sample)))
            else:
                yield Example(row.messages, row.document, row.document_digest, "")


def harvest_conversations(
    source: str | Path | Sequence[str], config: DatasetConfig, sources: Sources, tell: Tell
) -> Harvest:
    """Read logs, and gather what single examples are checked for.

    Args:
        source: see `conversations_at`.
        config: settings of the checks.
        sources: takes files that are skipped or of other types.
        tell: called as logs are read.

    Raises:
        InputError: a source does not exist; or a log can't be read and ``source.strict`` is set.
    """
    harvest = Harvest()
    quality, ledger = config.quality_control, harvest.ledger
    steps: tuple[Step[Example, Example], ...] = (
        HandlePiiInMessages(quality.pii.applied_action, quality.pii.applied_kinds, quality.pii.regions),
        CheckSubstance(),
        CheckLength(quality.filters.minimum_length, quality.filters.maximum_length),
        *example_filters(quality),
    )
    _begin(ledger, steps)
    logs = groupby(conversations_at(source, sources), key=attrgetter("document"))
    for num_logs, (document, conversations) in enumerate(logs, start=1):
        rows = _with_digest(conversations, document, harvest)
        examples: Iterable[Example] = _Read().run(rows, ledger)
        for step in steps:
            examples = step.run(examples, ledger)
        harvest.take_rows([example.build_row(position) for position, example in enumerate(examples)])
        tell(Stage("conversations", "logs", num_logs, None))
    harvest.skipped = sources.skipped
    if config.source.strict:
        harvest.require_no_skipped()
    harvest.require_documents(sources.name)
    if not harvest.has_examples:
        harvest.require_examples(sources.name)
    return harvest


def _begin(ledger: Ledger, steps: Iterable[Step[Example, Example]]) -> None:
    for name in (_Read.name, *(step.name for step in steps)):
        ledger.counts(name)  # in the order of the steps; the last one is asked for a row first


def _with_digest(conversations: Iterable[Conversation], document: str, harvest: Harvest) -> Iterator[Conversation]:
    for conversation in conversations:
        harvest.digests[document] = conversation.document_digest
        yield conversation
