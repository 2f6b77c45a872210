"""The filters that a configuration asks for, in the order in which they run."""

from __future__ import annotations

from llamafarm_ray.config import QualityControl
from llamafarm_ray.data.parsed import ParsedDocument, Passage
from llamafarm_ray.data.quality.boilerplate import DropBoilerplate
from llamafarm_ray.data.quality.coherence import DropIncoherent
from llamafarm_ray.data.quality.entailment import CheckEntailment
from llamafarm_ray.data.quality.language import KeepLanguage
from llamafarm_ray.data.quality.pii import HandlePii
from llamafarm_ray.data.quality.score import DropLowQuality
from llamafarm_ray.data.quality.toxicity import DropToxic
from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Step

__all__ = ["document_filters", "example_filters", "min_support", "passage_filters"]

_TOXIC = 0.5
_SUPPORTED = 0.8


def document_filters(quality: QualityControl) -> tuple[Step[ParsedDocument, ParsedDocument], ...]:
    """Return the steps between cleaning a document and splitting it."""
    return (DropBoilerplate(),) if quality.filters.boilerplate else ()


def passage_filters(quality: QualityControl) -> tuple[Step[Passage, Passage], ...]:
    """Return the steps between splitting a document and making examples of it."""
    language, pii = quality.filters.language_detection, quality.pii
    return (
        HandlePii(pii.applied_action, pii.applied_kinds, pii.regions),  # first: no later sample shows what it redacts
        *((KeepLanguage(language),) if language else ()),
    )


def example_filters(quality: QualityControl) -> tuple[Step[Example, Example], ...]:
    """Return the steps that check single examples, beside length and support."""
    toxicity = quality.filters.toxicity_threshold
    if toxicity is None and quality.toxicity_filter:
        toxicity = _TOXIC
    steps: list[Step[Example, Example]] = []
    if toxicity is not None:
        steps.append(DropToxic(toxicity, quality.toxicity_model))
    if quality.entailment_model is not None:
        steps.append(CheckEntailment(quality.entailment_model, quality.min_entailment))
    if quality.validation.coherence_scoring:
        steps.append(DropIncoherent())
    if quality.min_quality_score is not None:
        steps.append(DropLowQuality(quality.min_quality_score))
    return tuple(steps)


def min_support(quality: QualityControl) -> float | None:
    """Return the least support of an answer by its passage; None if it is not to be checked."""
    asked = quality.filters.factual_consistency
    return _SUPPORTED if asked is None and quality.factual_verification else asked
