"""Refuse settings of a dataset that have no meaning for its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.formats import holds_one_answer
from llamafarm_ray.data.row_kinds import kind_of_build
from llamafarm_ray.errors import InputError

__all__ = ["check_kind", "check_settings"]


def check_settings(config: DatasetConfig, *, from_rows: bool) -> None:
    """Refuse settings that a build of this source can't use.

    Args:
        config: the ``dataset`` section of a configuration.
        from_rows: the source holds rows, not documents.

    Raises:
        InputError: naming all of them.
    """
    _refuse(_of_rows(config) if from_rows else _of_documents(config))


def check_kind(config: DatasetConfig, kind: str) -> None:
    """Refuse settings for chats where rows are of another kind.

    Args:
        config: the ``dataset`` section of a configuration.

    Raises:
        InputError: naming all of them.
    """
    _refuse(_of_chats(config, kind) if kind != "chat" else ())


def _refuse(reasons: Iterable[str]) -> None:
    found = "; ".join(reasons)
    if found:
        raise InputError(f"The dataset can't be built as configured: {found}.")


def _of_rows(config: DatasetConfig) -> Iterator[str]:
    if config.preprocessing.with_passages is True:
        yield "preprocessing.with_passages asks questions of documents, and the source holds rows"
    if "{context}" in (config.preprocessing.prompt_template or ""):
        yield "preprocessing.prompt_template has {context}, and the source holds rows that name no passage"
    yield from _scores(config, "the source holds rows that name no passage")
    for name in _coverage_keys(config):
        yield f"{name} measures documents, and the source holds rows"


def _of_documents(config: DatasetConfig) -> Iterator[str]:
    kind, quality = kind_of_build(config), config.quality_control
    if kind == "text":
        yield from _scores(config, "plain texts have no answers")
        if quality.validation.coherence_scoring:
            yield "quality_control.validation.coherence_scoring scores answers, and plain texts have none"
        for name in _coverage_keys(config):
            yield f"{name} counts questions, and none are made"
    yield from _of_formats(config)
    if kind != "chat":
        yield from _of_chats(config, kind)
    elif config.preprocessing.with_passages is True and config.preprocessing.prompt_template is not None:
        yield "preprocessing.with_passages and prompt_template are two prompts for the same questions; keep one"


def _coverage_keys(config: DatasetConfig) -> Iterator[str]:
    """Yield the settings that need documents and questions about them."""
    metrics = config.quality_control.metrics
    if metrics.coverage_score is not None:
        yield "quality_control.metrics.coverage_score"
    if metrics.coverage_analysis:
        yield "quality_control.metrics.coverage_analysis"


def _of_formats(config: DatasetConfig) -> Iterator[str]:
    """Yield the reasons why a format can't hold the kinds of chats that are asked for."""
    row_format, kinds = config.preprocessing.format, config.preprocessing.qa_generation.kinds
    if "tool_calls" in kinds and row_format == "alpaca":
        yield "preprocessing.format alpaca has no place for tools; use chatml, sharegpt or prompt_completion"
    if "dialogues" in kinds and holds_one_answer(row_format):
        yield f"preprocessing.format {row_format} holds one answer, and dialogues have several; use chatml or sharegpt"


def _of_chats(config: DatasetConfig, kind: str) -> Iterator[str]:
    if config.preprocessing.with_passages is True:
        yield f"preprocessing.with_passages makes chats, and the rows are {kind} rows"
    for name in ("prompt_template", "system_prompt"):
        if getattr(config.preprocessing, name) is not None:
            yield f"preprocessing.{name} is for chats, and the rows are {kind} rows"
    for name in ("synthetic_generation", "augmentation"):
        if getattr(config, name).enabled:
            yield f"{name} is for chats, and the rows are {kind} rows"


def _scores(config: DatasetConfig, because: str) -> Iterator[str]:
    """Yield the settings that score answers by their passages."""
    quality = config.quality_control
    asked = {
        "quality_control.min_quality_score": quality.min_quality_score is not None,
        "quality_control.metrics.quality_score": quality.metrics.quality_score is not None,
        "validation.quality_threshold": config.validation.quality_threshold is not None,
        "quality_control.filters.factual_consistency": quality.filters.factual_consistency is not None,
        "quality_control.factual_verification": quality.factual_verification,
        "quality_control.entailment_model": quality.entailment_model is not None,
        "quality_control.judge.model": quality.judge.model is not None,
    }
    for name, is_set in asked.items():
        if is_set:
            yield f"{name} scores answers by their passages, and {because}"
