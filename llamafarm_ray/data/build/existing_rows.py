"""Rows that exist, as examples of a build: checked, filtered and split like those that are made from documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.conversations import FileOutcome, find_row_files, read_conversations
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.quality.filters import example_filters, passage_filters
from llamafarm_ray.data.readers.base import DocumentError
from llamafarm_ray.data.reading import EXPECTED, RowResult
from llamafarm_ray.data.records import is_record_file
from llamafarm_ray.data.row_kinds import messages_of_row
from llamafarm_ray.data.rows import Example, Provenance, with_optional
from llamafarm_ray.data.sources import FileLimits, SourceFile, discover
from llamafarm_ray.data.sources.containers import DAMAGE, members_of
from llamafarm_ray.data.sources.databases import is_database
from llamafarm_ray.data.sources.reading import open_file
from llamafarm_ray.data.sources.wanted import ROWS
from llamafarm_ray.data.split import Split, prompt_digest, split_existing
from llamafarm_ray.data.steps import CheckLength, Ledger
from llamafarm_ray.data.text import language_of
from llamafarm_ray.data.training_rows import KINDS, KindName
from llamafarm_ray.data.unused_fields import UnusedFields
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

__all__ = ["SourceRows", "checked_examples", "holds_rows", "read_source_rows", "require_rows"]

_TEXT_KEYS = ("content", "tool_calls", "chosen", "rejected", "anchor", "positive", "negatives", "text", "messages")
"""Keys of a row whose values are texts, or lists with texts in them."""

_PROVENANCE = Provenance("source")

Row = dict[str, Any]


@dataclass
class SourceRows:
    """Rows of a source as examples.

    Args:
        schema: the columns of the kind, and the optional ones that some rows use.
        prompts: digest of the prompt of each example by its id.
        validation: ids of the examples from files for validation.
    """

    harvest: Harvest = field(default_factory=lambda: Harvest(local=True))
    kind: KindName = "chat"
    schema: pa.Schema = field(default_factory=lambda: KINDS["chat"].schema)
    prompts: dict[str, str] = field(default_factory=dict)
    validation: set[str] = field(default_factory=set)

    def split(self, rows: Iterable[tuple[str, str]], *, ratio: float, seed: int) -> Split:
        """Choose the validation rows: those of validation files, else by document if all name one, else by prompt.

        There are none if all have one prompt.

        Args:
            rows: id of each example and its source document, empty where its record names none.
            ratio: share of the rows.
            seed: another seed, another choice.
        """
        documents = dict(rows)
        kept = list(documents)
        if self.validation:
            return Split(frozenset(self.validation.intersection(kept)), "facts")
        if ratio <= 0 or len({self.prompts[row_id] for row_id in kept}) < 2:  # one for each side
            return Split(frozenset(), "nothing")
        named = all(documents.values())
        asked = [(row_id, documents[row_id] if named else "", self.prompts[row_id]) for row_id in kept]
        return split_existing(asked, ratio=ratio, seed=seed)


def holds_rows(config: DatasetConfig, source: str | Path | Sequence[str]) -> bool:
    """Return True if the source holds rows, and False if it holds documents.

    Chats, and examples to invent others from, are rows. If no questions are generated, files of records are rows too,
    and so are folders, buckets and archives with nothing else in them.
    """
    if config.source.type in {"conversation_logs", "synthetic"}:
        return True
    return not config.makes_questions and all(map(_holds_only_rows, _paths(source)))


def require_rows(source: str | Path | Sequence[str]) -> None:
    """Look for the files of rows, before any of them is read.

    Raises:
        InputError: a source does not exist, can't be listed, or has none.
    """
    find_row_files(_paths(source))


def _holds_only_rows(source: str) -> bool:
    """Return True for a file or pattern of rows, and for a folder, bucket or archive with nothing else in it."""
    if is_record_file(Path(source.partition("#")[0])):
        return True
    if is_database(source):
        return False
    try:
        found = discover(source, wanted=ROWS)
    except InputError:
        return False
    files = [*found.files, *found.skipped]
    archives = [file for file in found.files if not is_record_file(Path(os.fsdecode(file.location)))]
    return not found.ignored and bool(files) and all(map(_is_archive_of_rows, archives))


def _is_archive_of_rows(file: SourceFile) -> bool:
    name = PurePath(os.fsdecode(file.location)).name
    try:
        with open_file(file.location) as opened:
            names = [PurePath(member.name).name for member in members_of(name, opened)]
    except (DocumentError, *DAMAGE):
        return False
    shown = [one for one in names if not one.startswith(ROWS.hidden)]
    return bool(shown) and all(is_record_file(Path(one)) for one in shown)


def read_source_rows(source: str | Path | Sequence[str], config: DatasetConfig) -> SourceRows:
    """Read, check and filter the rows of a source, in this process.

    A record that can't be used is dropped, and counted with its place and the reason as a sample. A file that gives
    no row is skipped with the reason; of one that is damaged later on the rows before that are used, and a note says
    so.

    Args:
        source: files of rows, or exports of Slack or Zendesk: see `find_row_files`.
        config: limits for each file, and settings of the filters; with ``source.strict`` a bad record or file is an
            error.

    Raises:
        InputError: there is nothing there, no record can be used, or the rows are of several kinds.
    """
    found, kept, made = SourceRows(), list[Row](), list[Row]()
    ledger = found.harvest.ledger
    counts, kinds, unused = ledger.counts("rows"), list[str](), UnusedFields()
    limits = FileLimits(config.source.file_timeout_s, config.source.file_memory_mb * 1024 * 1024)
    for outcome in read_conversations(_paths(source), limits):
        if isinstance(outcome, FileOutcome):
            _end_file(outcome, config, found.harvest)
            continue
        split, result = outcome
        counts.rows_in += 1
        if result.reason:
            _leave_out(result, config, ledger)
            continue
        kinds += [result.kind.name] if result.kind.name not in kinds else []
        if len(kinds) > 1:
            raise InputError(
                f"{result.file}: {result.place} is a {kinds[1]} row, and the rows before it are {kinds[0]} rows.",
                hint="A dataset has rows of one kind: make two.",
            )
        counts.rows_out += len(result.rows)
        unused.add(str(result.file), result.unused)
        for row in result.rows:
            found.harvest.digests[row["document"]] = row["document_digest"]
            for example, changed in checked_examples(row, kinds[0], config, ledger):
                found.prompts[example.id] = prompt_digest(changed)
                found.validation |= {example.id} if split == "validation" else set()
                made.append(example.build_row(len(kept), pii=changed["pii"]))
                kept.append(changed)
    if not kept:
        told = [f"{skipped.path}: {skipped.reason}" for skipped in found.harvest.skipped]
        told += [sample for step in ledger.steps.values() for samples in step.samples.values() for sample in samples]
        raise InputError(f"No row of {str(source)!r} can be used. {' '.join(told[:3])}".strip(), hint=EXPECTED)
    for file, note in unused.notes().items():
        found.harvest.notes[file] = [*found.harvest.notes.get(file, ()), note]
    found.harvest.skipped.sort(key=lambda skipped: skipped.path)
    found.harvest.take_rows(made)
    found.kind = KINDS[kinds[0]].name
    found.schema = with_optional(KINDS[found.kind].schema, kept)
    return found


def _end_file(outcome: FileOutcome, config: DatasetConfig, harvest: Harvest) -> None:
    if outcome.ignored:
        harvest.ignored[outcome.ignored] += 1
    if outcome.note:
        harvest.notes[outcome.path] = [outcome.note]
    if outcome.skipped is not None:
        harvest.skipped.append(outcome.skipped)
    if config.source.strict:
        harvest.require_no_skipped()
        if outcome.note:
            raise InputError(
                f"{outcome.path} can't be read to its end: {outcome.note}",
                hint="Repair or remove it, or set dataset.source.strict to false to use the beginning.",
            )


def _leave_out(result: RowResult, config: DatasetConfig, ledger: Ledger) -> None:
    told = f"{result.place} of {result.file} {result.reason}"
    if config.source.strict:
        raise InputError(told, hint="Repair or remove it, or set dataset.source.strict to false to leave it out.")
    counts = ledger.counts("rows")
    counts.dropped["record that can't be used"] += 1
    counts.add_sample("record that can't be used", told)


def checked_examples(row: Row, kind: str, config: DatasetConfig, ledger: Ledger) -> Iterator[tuple[Example, Row]]:
    """Yield a row as an example, and as it is after personal data was handled; nothing if a filter drops it.

    Args:
        row: of the kind, with ``document``, ``document_digest`` and ``passage``.
        kind: see `llamafarm_ray.data.row_kinds`.
        ledger: takes the counts.
    """
    texts = list(_texts(row))
    passage = Passage(
        row["document"],
        Digest(row["document_digest"]),
        "",
        tuple(texts[1:]),
        texts[0],
        0,
        language=language_of(" ".join(texts)),
    )
    quality = config.quality_control
    passages: Iterable[Passage] = (passage,)
    for step in passage_filters(quality):
        passages = step.run(passages, ledger)
    for filtered in passages:
        changed = {**_with_texts(row, iter((filtered.text, *filtered.headings))), "pii": list(filtered.pii)}
        messages, extra = messages_of_row(changed, kind)
        example = Example(messages, row["document"], row["document_digest"], row["passage"], extra=extra)
        example = replace(example, fact=prompt_digest(changed), provenance=_PROVENANCE)
        examples: Iterable[Example] = (example,)
        length = CheckLength(quality.filters.minimum_length, quality.filters.maximum_length)
        for check in (length, *example_filters(quality)):
            examples = check.run(examples, ledger)
        for one in examples:
            yield one, changed


def _texts(value: object) -> Iterator[str]:
    """Yield the texts of a row, in the order of its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for key in value:
            if key in _TEXT_KEYS and value[key] is not None:
                yield from _texts(value[key])


def _with_texts(value: Any, texts: Iterator[str]) -> Any:
    """Return a row with other texts, given in the order of `_texts`."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, list):
        return [_with_texts(one, texts) for one in value]
    return {
        key: _with_texts(one, texts) if key in _TEXT_KEYS and one is not None else one for key, one in value.items()
    }


def _paths(source: str | Path | Sequence[str]) -> list[str]:
    return [str(source)] if isinstance(source, str | Path) else list(source)
