"""What examples must be like to stay in a dataset."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from llamafarm_ray.config.base import Mistake, Section, section
from llamafarm_ray.config.values import ComparisonField

__all__ = ["QualityControl", "QualityFilters", "QualityMetrics", "QualityValidation"]


class QualityFilters(Section):
    """Examples are dropped one by one."""

    minimum_length: int | None = Field(
        default=None, ge=0, description="Fewest characters of an example's messages together."
    )
    maximum_length: int | None = Field(
        default=None, ge=1, description="Most characters of an example's messages together."
    )
    language_detection: str | None = Field(
        default=None, min_length=2, max_length=8, description="Keep examples in this language, e.g. 'en'."
    )
    toxicity_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Drop examples more toxic than this."
    )
    factual_consistency: float | None = Field(
        default=None, ge=0, le=1, description="Drop examples whose answer follows less from its passage than this."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """Some length must be left."""
        low, high = self.minimum_length, self.maximum_length
        if low is not None and high is not None and low > high:
            yield Mistake(("minimum_length", "maximum_length"), f"is {low}, more than {{1}}, which is {high}.")


class QualityValidation(Section):
    """Checks that look at more than one example, or at the domain."""

    duplicate_detection: bool = Field(default=True, description="Drop examples that repeat another one.")
    coherence_scoring: bool = Field(default=False, description="Score how well question and answer go together.")
    domain_relevance: bool = Field(default=False, description="Score how well an example fits the domain.")


class QualityMetrics(Section):
    """Goals for the dataset as a whole."""

    diversity_score: ComparisonField | None = Field(
        default=None, description="Goal for the diversity of the examples, '>0.7'."
    )
    quality_score: ComparisonField | None = Field(default=None, description="Goal for the mean quality, '>0.8'.")
    coverage_analysis: bool = Field(default=False, description="Report how much of each document the examples cover.")


class QualityControl(Section):
    """Filters, checks and goals for the examples of a dataset."""

    filters: QualityFilters = section(QualityFilters, "What drops a single example.")
    validation: QualityValidation = section(QualityValidation, "Checks across examples.")
    metrics: QualityMetrics = section(QualityMetrics, "Goals for the whole dataset.")
    min_quality_score: float | None = Field(
        default=None, ge=0, le=1, description="Drop examples scored lower than this."
    )
    toxicity_filter: bool = Field(default=False, description="Drop toxic examples.")
    factual_verification: bool = Field(default=False, description="Verify answers against their source documents.")
