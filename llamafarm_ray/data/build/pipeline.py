"""Build a dataset: documents or rows in, train and validation splits out, streaming through Ray Data."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.augmentation.by_heart import rows_by_heart
from llamafarm_ray.data.augmentation.practice import PRACTICE_SHARE, practice_rows
from llamafarm_ray.data.augmentation.with_passages import rows_with_passages
from llamafarm_ray.data.build.applicable import check_kind, check_settings
from llamafarm_ray.data.build.assembly import Assembly
from llamafarm_ray.data.build.examples import Examples
from llamafarm_ray.data.build.existing_rows import holds_rows
from llamafarm_ray.data.build.finished import FinishedParts
from llamafarm_ray.data.build.gathering import (
    SPLIT_COLUMNS,
    Gathered,
    gather_documents,
    gather_rows,
    plan_engine,
)
from llamafarm_ray.data.build.passes import asks_by_heart, asks_with_passages, check_passes, num_passes, passes_of_most
from llamafarm_ray.data.build.tasks import fits_one_process
from llamafarm_ray.data.expansion import Expansion, plan_expansion
from llamafarm_ray.data.formats import default_format
from llamafarm_ray.data.quality.decontamination import read_evaluation_texts
from llamafarm_ray.data.quality.judge import plan_judge
from llamafarm_ray.data.quality.metrics import DatasetMetrics, measure, require_goals
from llamafarm_ray.data.quality.whole_set import question_of
from llamafarm_ray.data.ray_data import quiet_ray_data, require_cluster
from llamafarm_ray.data.report import BuildReport, Stage, Tell, counting, report_page
from llamafarm_ray.data.row_kinds import kind_of_build, schema_of_build
from llamafarm_ray.data.rows import ROW_SCHEMA
from llamafarm_ray.data.search.hard_negatives import mine
from llamafarm_ray.data.sources import Sources, discover
from llamafarm_ray.data.split import SplitRow
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.text import language_of
from llamafarm_ray.data.text.near_words import NearWords
from llamafarm_ray.data.writing import Target, target_for
from llamafarm_ray.types import DeviceUse

__all__ = ["BuildOptions", "build_dataset"]

_WORD_STARTS = "\u0120\u2581"  # marks of byte-level BPE and of SentencePiece


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of a build.

    Args:
        progress: called in the builder's thread as parts of a stage ("documents", "pairs", "examples", "write") are
            done.
        base_model: folder of the base model, which may write the pairs.
        cache: folder or URI for the answers of an endpoint, so that none is asked for twice; by default a hidden
            folder beside the output, which stays.
        overwrite: replace another dataset at the output.
        num_partitions: into how many tasks the documents are spread; by default a few documents a task.
        on_use: called in the builder's thread with the use of devices by tasks that read documents and by the actor
            that writes pairs, as their results come.
    """

    progress: Tell = lambda _stage: None
    base_model: str | None = None
    cache: str | None = None
    overwrite: bool = False
    num_partitions: int | None = None
    on_use: Callable[[DeviceUse], None] = lambda _use: None


def build_dataset(
    source: str | Path | Sequence[str],
    output: Path,
    config: DatasetConfig,
    *,
    name: str,
    seed: int,
    options: BuildOptions | None = None,
) -> BuildReport:
    """Make a dataset from the documents, or rows, at ``source``.

    The same input, config and seed give the same digest and the same files, for any number of workers. Nothing
    appears at ``output`` before everything is written. Documents that can't be read are skipped and reported. A build
    that was killed resumes: finished parts lie in the hidden folder ``.NAME.unfinished`` beside ``output`` until a
    build with this output is complete.

    Args:
        source: folder of documents, one document, a pattern or a URI, or several of them; every node of the cluster
            must see it under this path. Of rows (`llamafarm_ray.data.build.existing_rows.holds_rows`) files and folders
            that this process sees.
        output: the folder to make, or a file ending in ``.json`` or ``.jsonl``. If the same dataset exists, it is left
            as it is.
        config: the ``dataset`` section of a configuration.
        seed: decides which examples are held out.

    Raises:
        InputError: the source is missing, has nothing that can be read, or gave no example; the model that shall
            write can't be asked; a setting means nothing for the source; or the dataset misses a goal of
            ``quality_control``.
        ConflictError: ``output`` exists with other content.
        ClusterError: Ray is not running, or gave up. Rows need it only where a base model writes, and documents that
            one process can read (`fits_one_process`) only where a model does.
        StorageError: ``output`` can't be written.
    """
    options = options or BuildOptions()
    if options.cache is None:
        options = replace(options, cache=str(output.with_name(f".{output.name}.answers").absolute()))
    return _Build(source, output, config, name=name, seed=seed, options=options).run()


class _Build:
    """One build of a dataset, after every check that needs no document.

    Args:
        source: see `build_dataset`.
        output: likewise.
        config: likewise.
        name: likewise.
        seed: likewise.
        options: likewise; with a cache.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str],
        output: Path,
        config: DatasetConfig,
        *,
        name: str,
        seed: int,
        options: BuildOptions,
    ) -> None:
        self._config = config
        self._name = name
        self._seed = seed
        self._options = options
        from_rows = holds_rows(config, source)
        base_model, cache = options.base_model, str(options.cache)
        self._engine = plan_engine(config, base_model=base_model, cache=cache) if config.makes_questions else None
        check_passes(config, self._engine[0] if self._engine else None)
        self._expansion = plan_expansion(config, base_model=base_model, cache=cache, seed=seed, on_use=options.on_use)
        check_settings(config, from_rows=from_rows)
        self._judge = plan_judge(config.quality_control, cache=cache, environment=os.environ)
        self._start = time.monotonic()
        self._rows = gather_rows(source, config) if from_rows else None
        check_kind(config, self._rows.kind if self._rows else kind_of_build(config))
        self._target = _target(output, config, self._rows, overwrite=options.overwrite)
        self._target.check()
        self._sources = Sources() if from_rows else discover(source, exclude=self._target.output)
        if not from_rows and not fits_one_process(self._sources.files, options.num_partitions):
            require_cluster()
        self._parts = FinishedParts(self._target.output)

    def run(self) -> BuildReport:
        """Gather and filter the examples, and publish the dataset."""
        config = self._config
        evaluation = read_evaluation_texts(config.quality_control.decontaminate)
        with quiet_ray_data():
            gathered = self._rows or self._gather_documents()
            examples = Examples(gathered.harvest, config.quality_control, evaluation, judge=self._judge)
            facts = self._keep(examples, gathered)
            metrics = measure(examples.rows(["id", "messages", "passage"], Ledger()), config)
            require_goals(config, metrics)
            return self._publish(examples, gathered, facts, metrics)

    def _gather_documents(self) -> Gathered:
        return gather_documents(
            self._sources,
            self._config,
            self._parts,
            engine=self._engine,
            num_partitions=self._options.num_partitions,
            tell=self._options.progress,
            on_use=self._options.on_use,
        )

    def _keep(self, examples: Examples, gathered: Gathered) -> list[SplitRow]:
        """Filter the examples as a whole, and return the columns for the split of those that stay."""
        tell = self._options.progress
        tell(Stage("examples", "examples", 0, None))
        kept = counting(
            examples.rows(SPLIT_COLUMNS, gathered.harvest.ledger),
            lambda done: tell(Stage("examples", "examples", done, None)),
        )
        facts = [gathered.split_row(row) for row in kept]
        gathered.harvest.require_left(len(facts))
        return facts

    def _publish(
        self, examples: Examples, gathered: Gathered, facts: list[SplitRow], metrics: DatasetMetrics
    ) -> BuildReport:
        """Write the examples with their report, check the goals of ``quality_control``, and publish the dataset."""
        config, target, harvest = self._config, self._target, gathered.harvest
        split = gathered.split(facts, config, self._seed)
        num_rows = len(facts)
        facts.clear()
        by_heart = asks_by_heart(config, gathered.choice, gathered.kind)
        with target.open():
            assembly = Assembly(target, split, kind=gathered.kind, config=config)
            passes = _write(
                assembly,
                examples,
                gathered,
                self._expansion,
                with_passages=asks_with_passages(config, gathered.choice, gathered.kind),
                passes=num_passes(config, gathered.choice, gathered.kind),
                near_words=_near_words(self._options.base_model) if by_heart else None,
                seed=self._seed,
                tell=lambda done: self._options.progress(Stage("write", "rows", done, num_rows)),
            )
            assembly.require_training_rows(harvest)
            report = assembly.report(
                name=self._name,
                seed=self._seed,
                sources=gathered.sources,
                harvest=harvest,
                choice=gathered.choice,
                seconds={**gathered.seconds, "total": round(time.monotonic() - self._start, 3)},
            )
            metrics = replace(metrics, coverage=report.coverage.share if report.coverage else None)
            require_goals(config, metrics)
            report = replace(report, metrics=metrics)
            page = report_page(report, coverage_by_document=config.quality_control.metrics.coverage_analysis)
            target.finish(assembly.description(report, harvest, passes=passes), report.to_dict(), page)
            created = target.publish()
            self._parts.clear()
        return replace(report, created=created)


def _target(output: Path, config: DatasetConfig, rows: Gathered | None, *, overwrite: bool) -> Target:
    kind = kind_of_build(config) if rows is None else rows.kind
    row_format = config.preprocessing.format or default_format(kind)
    schema = schema_of_build(config) if rows is None else rows.schema
    return target_for(output, row_format, overwrite=overwrite, kind=kind, schema=schema)


def _write(
    assembly: Assembly,
    examples: Examples,
    gathered: Gathered,
    expansion: Expansion,
    *,
    with_passages: bool,
    passes: int,
    near_words: NearWords | None,
    seed: int,
    tell: Callable[[int], None],
) -> int:
    """Write all examples, then rows that are made of the training split's, and practice.

    Returns the passes that most questions of the training split were written in.

    Args:
        gathered: contents of the sources.
        expansion: invents rows and copies.
        with_passages: ask questions once more with passages in the prompt.
        near_words: words of like meaning, where the base model wrote the questions: they are asked in rows by heart,
            and the dataset has practice.
        seed: of the rows by heart, of those with passages and of practice.
        tell: called with the number of examples so far.
    """
    ledger = gathered.harvest.ledger
    by_base = near_words is not None
    rows: Iterator[Mapping[str, Any]] = examples.rows([*ROW_SCHEMA.names, "covers", "extra"], Ledger())
    if gathered.rows is None:
        texts = functools.partial(examples.rows, ["id", "document", "passage", "messages"], Ledger())
        rows = mine(rows, gathered.kind, assembly.side_of, texts, ledger)
    is_asked_again = by_base or with_passages or expansion.is_asked_for
    train: set[str] = set()
    num_once = 0
    for row in counting(rows, tell):
        is_trained = assembly.side_of(row["id"]) == "train"
        if is_trained and is_asked_again:
            train.add(row["id"])
        if not (by_base and is_trained and _is_asked_by_heart(row)):
            assembly.add(row)
            num_once += is_trained
    if by_base:
        asked = filter(_is_asked_by_heart, examples.by_document(train))
        for row in rows_by_heart(asked, seed=seed, passes=passes, near_words=near_words):
            assembly.add_joined(row)
    num_with_passages = 0
    if with_passages:
        asked = filter(_is_question, examples.by_document(train))
        for row in rows_with_passages(asked, seed=seed, passes=passes, near_words=near_words):
            assembly.add_joined(row)
            num_with_passages += by_base and _is_english(row)
    if expansion.is_asked_for:
        questions = (question_of(row["messages"]) for row in examples.rows(["messages"], Ledger()))
        for row in expansion.rows(examples.by_document(train), questions, ledger, examples.fault_of):
            assembly.add(row)
    for row in practice_rows(PRACTICE_SHARE * num_with_passages, seed=seed) if by_base else ():
        assembly.add_joined(row)
    assembly.flush()
    return passes_of_most(passes, num_by_heart=len(train) - num_once, num_once=num_once) if by_base else passes


def _is_question(row: Mapping[str, Any]) -> bool:
    """Return True for a question with its answer, False for the other kinds of chats."""
    return row["provenance"] is None or not json.loads(row["provenance"]).get("kind")


def _is_asked_by_heart(row: Mapping[str, object]) -> bool:
    """Return True for a question in English: its other forms are made by English rules."""
    return _is_question(row) and _is_english(row)


def _is_english(row: Mapping[str, Any]) -> bool:
    return language_of(row["passage"], "en") == "en"


def _near_words(base_model: str | None) -> NearWords:
    """Return the words of like meaning that a base model's tokenizer has as one token."""
    vocabulary: Iterable[str] = ()
    if base_model:
        from llamafarm_ray.models.tokenizer import load_tokenizer  # imports torch and transformers: seconds

        vocabulary = load_tokenizer(Path(base_model)).get_vocab()
    return NearWords(token.lstrip(_WORD_STARTS) for token in vocabulary if token.startswith(tuple(_WORD_STARTS)))
