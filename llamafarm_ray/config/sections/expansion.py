"""Examples beyond those of the documents: invented ones, and changed copies of existing ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Names, Section, Unused, as_tuple

__all__ = ["Augmentation", "AugmentationMethod", "SyntheticGeneration"]

AugmentationMethod = Literal["paraphrase", "noise", "back_translation"]


class SyntheticGeneration(Section):
    """Examples invented by a model or by templates, from the passages of the training split."""

    enabled: bool = Field(default=False, description="Add invented examples to the training split.")
    base_model: str | None = Field(
        default=None,
        min_length=1,
        description="Model that invents them: a model of the endpoint, 'base_model' or 'rules' (templates); null: "
        "preprocessing.qa_generation.model.",
    )
    diversity_threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Drop invented examples whose question is more similar to another's than this (cosine); null: "
        "repetitions only.",
    )
    examples_per_passage: int = Field(default=3, ge=1, le=100, description="Most invented examples of a passage.")

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is invented when it is off."""
        if self.enabled:
            return {}
        reason = Unused("enabled", "has no effect while {1} is false.")
        return dict.fromkeys(("base_model", "diversity_threshold", "examples_per_passage"), reason)


class Augmentation(Section):
    """Changed copies of training examples: the question is put in other words, the answer stays."""

    enabled: bool = Field(default=False, description="Add changed copies to the training split.")
    methods: Annotated[tuple[AugmentationMethod, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("paraphrase", "noise"),
        description="One copy for each: 'paraphrase' (by rules for English, or by a model), 'noise' (typing "
        "mistakes), 'back_translation' (by a model).",
    )
    noise_rate: float = Field(default=0.1, gt=0, le=0.5, description="Share of a question's words with a mistake.")
    languages: Names = Field(
        default=("German",), min_length=1, description="Languages that questions are translated to and back from."
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="Model of the endpoint for paraphrases and translations; null: preprocessing.qa_generation.model.",
    )

    def mistakes(self) -> Iterator[Mistake]:
        """Each method gives one copy."""
        if len(set(self.methods)) < len(self.methods):
            yield Mistake(("methods",), "names a method twice.")

    def unused(self) -> Mapping[str, Unused]:
        """Return the settings that have no effect while augmentation is off."""
        if not self.enabled:
            reason = Unused("enabled", "has no effect while {1} is false.")
            return dict.fromkeys(("methods", "noise_rate", "languages", "model"), reason)
        found = {}
        if "noise" not in self.methods:
            found["noise_rate"] = Unused("methods", "has no effect while {1} does not name noise.")
        if "back_translation" not in self.methods:
            found["languages"] = Unused("methods", "has no effect while {1} does not name back_translation.")
        return found
