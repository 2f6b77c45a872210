"""Settings of objectives: those that compare answers, and the one that trains embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from llamafarm_ray.config.sections.base import Section, Unused

__all__ = ["ContrastiveSettings", "DpoLoss", "DpoSettings", "KtoSettings", "Pooling"]

DpoLoss = Literal["sigmoid", "ipo", "hinge"]
Pooling = Literal["mean", "last", "cls"]


class DpoSettings(Section):
    """Direct preference optimisation: pairs of a chosen and a rejected answer."""

    beta: float = Field(default=0.1, gt=0, le=1000, description="Cost of leaving the base model; smaller: go further.")
    loss_type: DpoLoss = Field(
        default="sigmoid",
        description="The pair's loss: 'sigmoid' (DPO), 'ipo' (a margin of 1/(2 beta) per token), 'hinge' (SLiC).",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Share of pairs whose answers are taken to be swapped (sigmoid)."
    )

    def unused(self) -> Mapping[str, Unused]:
        """Only the sigmoid loss has a probability to smooth."""
        if self.loss_type == "sigmoid":
            return {}
        return {"label_smoothing": Unused("loss_type", f"has no effect with {{1}} {self.loss_type}.")}


class KtoSettings(Section):
    """Kahneman-Tversky optimisation: answers that were liked or not."""

    beta: float = Field(default=0.1, gt=0, le=1000, description="Cost of leaving the base model; smaller: go further.")
    desirable_weight: float = Field(default=1.0, ge=0, le=1000, description="Weight of an answer that was liked.")
    undesirable_weight: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="Weight of one that was not. The two weights times the rows of their kind should be within a "
        "factor of 4/3 of each other.",
    )


class ContrastiveSettings(Section):
    """Contrastive training of embeddings: an anchor is nearer to its positive than to any other text of the step."""

    temperature: float = Field(
        default=0.05,
        gt=0,
        le=10,
        description="Divisor of cosine similarities; smaller: harder negatives count.",
    )
    pooling: Pooling = Field(
        default="mean",
        description="Vector of a text's tokens: their mean, the last one (decoders), or the first (cls).",
    )
    hard_negatives: int = Field(
        default=1, ge=0, le=64, description="Most of a row's own negatives that are used, the first ones."
    )
    query_prefix: str = Field(default="", description="Put before every anchor, such as 'query: '.")
    passage_prefix: str = Field(default="", description="Put before every positive and negative, such as 'passage: '.")
