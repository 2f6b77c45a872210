"""Quality control: filters, checks and goals for the examples of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Names, Section, Unused, as_tuple, section
from llamafarm_ray.config.sections.generation import Server
from llamafarm_ray.config.values import ComparisonField
from llamafarm_ray.text.pii.finding import PiiKind

__all__ = [
    "PairJudge",
    "PiiAction",
    "PiiControl",
    "QualityControl",
    "QualityFilters",
    "QualityMetrics",
    "QualityValidation",
]

PiiAction = Literal["keep", "tag", "redact", "drop"]

# Said by no good answer. Addresses and account numbers of an organization's own documents are often the answer itself.
_NEVER_SAID: tuple[PiiKind, ...] = ("secret", "card", "national_id")

_PlugIn = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class PiiControl(Section):
    """Personal data and secrets in passages."""

    action: PiiAction | None = Field(
        default=None,
        description="Put [EMAIL] and the like in their place, drop the passage, tag its examples, or keep and count "
        "them. null: redact secrets, cards and national numbers; keep and count the rest.",
    )
    kinds: Annotated[tuple[PiiKind, ...], BeforeValidator(as_tuple)] | None = Field(
        default=None, description="Kinds that `action` is for; null: all. The others are kept and counted."
    )
    regions: Names = Field(
        default=(), description="Countries (ISO 3166, 'DE') whose phone numbers are known without a prefix."
    )

    @property
    def applied_action(self) -> PiiAction:
        """Action for ``applied_kinds``."""
        return self.action or "redact"

    @property
    def applied_kinds(self) -> tuple[PiiKind, ...]:
        """Kinds that the action is for."""
        if self.kinds is not None:
            return self.kinds
        return _NEVER_SAID if self.action is None else get_args(PiiKind)

    def unused(self) -> Mapping[str, Unused]:
        """Kinds mean nothing without an action."""
        return {} if self.action else {"kinds": Unused("action", "has no effect while {1} is not set.")}


class QualityFilters(Section):
    """Filters that drop single examples."""

    minimum_length: int | None = Field(
        default=None, ge=0, description="Fewest characters of an example's messages together."
    )
    maximum_length: int | None = Field(
        default=None, ge=1, description="Most characters of an example's messages together."
    )
    language_detection: str | None = Field(
        default=None, min_length=2, max_length=8, description="Keep passages in this language, e.g. 'en'."
    )
    toxicity_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Drop examples more toxic than this."
    )
    factual_consistency: float | None = Field(
        default=None, ge=0, le=1, description="Drop examples whose answer its passage supports less than this."
    )
    boilerplate: bool = Field(
        default=True, description="Drop lines of navigation, licences, page numbers and cookie notices."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """Some length must be left."""
        low, high = self.minimum_length, self.maximum_length
        if low is not None and high is not None and low > high:
            yield Mistake(("minimum_length", "maximum_length"), f"is {low}, more than {{1}}, which is {high}.")


class QualityValidation(Section):
    """Checks that look at more than one example, or at the domain."""

    duplicate_detection: bool = Field(default=True, description="Drop examples that repeat another one.")
    near_duplicate_threshold: float | None = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="Drop what is at least this similar to something kept (Jaccard); null: exact repetitions only.",
    )
    coherence_scoring: bool = Field(default=False, description="Drop examples whose answer is about something else.")
    domain_relevance: bool = Field(default=False, description="Drop examples far from the domain.")
    domain: str | None = Field(
        default=None, min_length=1, description="Describes the domain; null: what the passages have in common."
    )

    def unused(self) -> Mapping[str, Unused]:
        """Settings of checks that are off."""
        found = {}
        if not self.duplicate_detection:
            found["near_duplicate_threshold"] = Unused("duplicate_detection", "has no effect while {1} is false.")
        if not self.domain_relevance:
            found["domain"] = Unused("domain_relevance", "has no effect while {1} is false.")
        return found


class QualityMetrics(Section):
    """Goals for the dataset as a whole."""

    diversity_score: ComparisonField | None = Field(
        default=None, description="Goal for the diversity of the examples, '>0.7'."
    )
    quality_score: ComparisonField | None = Field(default=None, description="Goal for the mean quality, '>0.8'.")
    coverage_score: ComparisonField | None = Field(
        default=None, description="Goal for the share of the documents' facts with an example, '>0.5'."
    )
    coverage_analysis: bool = Field(
        default=False,
        description="List the documents on the report's page with their facts and those that are taught, least first.",
    )


class PairJudge(Server):
    """A model that judges whether passages support the answers about them."""

    model: str | None = Field(default=None, min_length=1, description="Model at an endpoint; null: no judge.")
    max_output_tokens: int = Field(default=512, ge=16, le=131072, description="Longest verdict in tokens.")

    def unused(self) -> Mapping[str, Unused]:
        """A server means nothing without a model."""
        if self.model is not None:
            return super().unused()
        keys = (name for name in type(self).model_fields if name != "model")
        return dict.fromkeys(keys, Unused("model", "has no effect while {1} is not set."))


class QualityControl(Section):
    """Filters, checks and goals for the examples of a dataset."""

    filters: QualityFilters = section(QualityFilters, "Filters of single examples.")
    validation: QualityValidation = section(QualityValidation, "Checks across examples.")
    metrics: QualityMetrics = section(QualityMetrics, "Goals for the whole dataset.")
    pii: PiiControl = section(PiiControl, "Personal data and secrets.")
    decontaminate: Names = Field(
        default=(), description="Files of evaluation questions; examples that share one with them are dropped."
    )
    min_quality_score: float | None = Field(
        default=None, ge=0, le=1, description="Drop examples scored lower than this."
    )
    toxicity_filter: bool = Field(default=False, description="Drop toxic examples.")
    toxicity_model: _PlugIn | None = Field(
        default=None, description="A function 'module:name' from a text to 0..1, instead of the word list."
    )
    factual_verification: bool = Field(default=False, description="Verify answers against their source documents.")
    entailment_model: _PlugIn | None = Field(
        default=None,
        description="A function 'module:name' from a passage and a statement to 0..1: drop examples whose passage does "
        "not entail their answer.",
    )
    min_entailment: float = Field(default=0.5, ge=0, le=1, description="Least that entailment_model must return.")
    judge: PairJudge = section(PairJudge, "A model that judges whether passages support the answers about them.")

    def unused(self) -> Mapping[str, Unused]:
        """A least score means nothing without scores."""
        if self.entailment_model is not None:
            return {}
        return {"min_entailment": Unused("entailment_model", "has no effect while {1} is not set.")}
