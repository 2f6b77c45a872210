"""Gather the examples, passages and failures that the workers return."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from llamafarm_ray.data.generation.base_model.other_languages import OTHER_LANGUAGE
from llamafarm_ray.data.generation.rules import NO_RULES, GenerateByRules
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA
from llamafarm_ray.data.sources import SkippedDocument
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError

if TYPE_CHECKING:
    import ray

__all__ = ["Harvest"]

_ROWS_PER_BLOCK = 20_000
_MAX_REASONS_SHOWN = 3
_NO_EXAMPLE = "See these reasons and quality_control.filters. Rules find questions in English sentences only."
_OTHER_LANGUAGE = (
    "The base model asks in another language than the documents'. Set dataset.preprocessing.qa_generation.model to a "
    "model of an endpoint, or to 'vllm' with a model that writes it."
)


@dataclass
class Harvest:
    """Examples, passages and failures returned by the workers.

    Args:
        blocks: references to tables of ``EXAMPLE_SCHEMA`` in Ray's object store.
        rows: tables of ``EXAMPLE_SCHEMA`` that are not there yet; all of them, if they are few.
        ledger: the counts of the steps so far.
        digests: digest by path of each document that was read.
        skipped: the documents that were not, in the order of their paths.
        num_facts: number of facts by path.
        passages: passages by path, each as JSON, where a model writes the examples.
        ignored: number of files in archives by extension that no reader takes.
        notes: remarks by path of the readers of documents that were read.
        local: keep all tables in this process, without Ray.
    """

    blocks: list[ray.ObjectRef[object]] = field(default_factory=list)
    rows: list[pa.Table] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    digests: dict[str, str] = field(default_factory=dict)
    skipped: list[SkippedDocument] = field(default_factory=list)
    num_facts: dict[str, int] = field(default_factory=dict)
    passages: dict[str, list[str]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: dict[str, list[str]] = field(default_factory=dict)
    local: bool = False

    def take(self, batch: pa.Table) -> None:
        """Take in a batch of ``RESULT_SCHEMA``."""
        for row in batch.drop_columns(["examples"]).to_pylist():
            if row["ignored"]:
                self.ignored[row["ignored"]] += 1
                continue
            if row["error"]:
                self.skipped.append(SkippedDocument(row["path"], row["error"]))
                continue
            self.digests[row["path"]] = row["digest"]
            self.num_facts[row["path"]] = self.num_facts.get(row["path"], 0) + row["num_facts"]
            self.ledger.merge(json.loads(row["counts"]))
            if row["notes"]:
                self.notes[row["path"]] = row["notes"]
            if row["passages"]:
                self.passages.setdefault(row["path"], []).extend(row["passages"])
        examples = batch["examples"].combine_chunks().flatten()
        if len(examples):
            self._add(pa.table(examples.flatten(), schema=EXAMPLE_SCHEMA))

    def take_rows(self, rows: list[dict[str, object]]) -> None:
        """Take in rows of ``EXAMPLE_SCHEMA``."""
        if rows:
            self._add(pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA))

    def _add(self, examples: pa.Table) -> None:
        self.rows.append(examples)
        if not self.local and sum(table.num_rows for table in self.rows) >= _ROWS_PER_BLOCK:
            self.flush()

    def flush(self) -> None:
        """Hand rows to Ray: in few blocks, because each one costs a task when they are sorted."""
        if self.rows:
            import ray  # few rows stay here

            self.blocks.append(ray.put(pa.concat_tables(self.rows)))
            self.rows = []

    @property
    def has_examples(self) -> bool:
        """True if there is something to make a dataset of."""
        return bool(self.blocks or self.rows)

    def require_no_skipped(self) -> None:
        """Refuse to go on without a document of the source, as ``dataset.source.strict`` asks.

        Raises:
            InputError: a document can't be used; the message says why.
        """
        if self.skipped:
            first = min(self.skipped, key=lambda skipped: skipped.path)
            raise InputError(
                f"{first.path} can't be used: {first.reason}",
                hint="Repair or remove it, or set dataset.source.strict to false to skip such files.",
            )

    def require_examples(self, source: str) -> None:
        """Refuse to go on with nothing.

        Raises:
            InputError: no document could be read, or none gave an example; the message says why.
        """
        self.require_documents(source)
        if not self.has_examples:
            languages = self._languages_without_rules()
            if languages and not self.ledger.counts(GenerateByRules.name).rows_out:
                raise InputError(
                    f"The {len(self.digests)} documents read in {source!r} gave no example: they are in "
                    f"{' and '.join(languages)}, and questions are made by rules for English only.",
                    hint="Let a model write them: set dataset.preprocessing.qa_generation.model.",
                )
            raise InputError(
                f"The {len(self.digests)} documents read in {source!r} gave no example ({self._reasons()}).",
                hint=_OTHER_LANGUAGE if self._asks_in_another_language else _NO_EXAMPLE,
            )

    @property
    def _asks_in_another_language(self) -> bool:
        dropped = self.ledger.counts(GenerateByRules.name).dropped
        return any(reason.startswith(OTHER_LANGUAGE) for reason in dropped)

    def _languages_without_rules(self) -> list[str]:
        dropped = self.ledger.counts(GenerateByRules.name).dropped
        return sorted(reason.removeprefix(NO_RULES).strip() for reason in dropped if reason.startswith(NO_RULES))

    def require_left(self, num_examples: int) -> None:
        """Refuse to write an empty dataset.

        Raises:
            InputError: the filters over the whole set left no example; the message says why.
        """
        if not num_examples:
            raise InputError(
                f"No example is left after all filters ({self._reasons()}).", hint="Look at dataset.quality_control."
            )

    def _reasons(self) -> str:
        reasons: Counter[str] = Counter()
        for counts in self.ledger.steps.values():
            reasons.update(counts.dropped)
        told = ", ".join(f"{count} times {reason!r}" for reason, count in reasons.most_common(_MAX_REASONS_SHOWN))
        return f"dropped: {told}"

    def require_documents(self, source: str) -> None:
        """Refuse to go on without a document.

        Raises:
            InputError: none could be read; the message says why.
        """
        if not self.digests:
            shown = "; ".join(f"{skipped.path}: {skipped.reason}" for skipped in self.skipped[:_MAX_REASONS_SHOWN])
            more = len(self.skipped) - _MAX_REASONS_SHOWN
            raise InputError(
                f"None of the {len(self.skipped)} documents found in {source!r} can be used, all were skipped. "
                f"{shown}{f'; and {more} more' if more > 0 else ''}"
            )
