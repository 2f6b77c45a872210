"""The engines that a configuration asks for to invent examples and to change them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llamafarm_ray.config import DatasetConfig, QaGeneration
from llamafarm_ray.data.expansion.asking import ModelExpander
from llamafarm_ray.data.expansion.augmentation import Augmenter
from llamafarm_ray.data.expansion.diversity import Diversity
from llamafarm_ray.data.expansion.parents import Row
from llamafarm_ray.data.expansion.synthesis import Synthesizer, by_base_model, by_model, by_templates
from llamafarm_ray.data.generation import Choice, Generator, choose_generator, plan_writer
from llamafarm_ray.data.generation.base_model import BaseModelPlan
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.generation.cluster import VllmPlan
from llamafarm_ray.data.generation.endpoint import EndpointPlan
from llamafarm_ray.data.quality.new_rows import FaultOf
from llamafarm_ray.data.ray_data import largest_node, require_cluster
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import DeviceUse

__all__ = ["Expansion", "engines_of", "expansion_models", "plan_expansion"]

_ROWS_AT_ONCE = 2048
_OTHER_DRAWS = 7919
"""Seed of a base model's draws for invented examples, another one than for the pairs."""


@dataclass(frozen=True)
class Expansion:
    """Invented examples and changed copies of a training split.

    Args:
        synthesizer: invents; None: nothing is invented.
        augmenter: changes; None: nothing is changed.
        threshold: largest similarity of an invented question to another one.
    """

    synthesizer: Synthesizer | None = None
    augmenter: Augmenter | None = None
    threshold: float | None = None

    @property
    def is_asked_for(self) -> bool:
        """True if anything is to be made."""
        return self.synthesizer is not None or self.augmenter is not None

    def rows(
        self, rows: Iterable[Row], questions: Iterable[str], ledger: Ledger, fault_of: FaultOf
    ) -> Iterator[dict[str, Any]]:
        """Yield new rows: the invented ones and the copies of each part of the training split.

        Args:
            rows: the training split, rows of a document together and in its order.
            questions: the questions of all examples, held-out ones too.
            ledger: takes the counts.
            fault_of: returns the reason why a new row can't be used.
        """
        known = Diversity(questions, self.threshold if self.synthesizer else None)
        wordings = Diversity(known.forms)
        iterator = iter(rows)
        while part := list(itertools.islice(iterator, _ROWS_AT_ONCE)):
            if self.synthesizer is not None:
                yield from self.synthesizer.rows(part, known, ledger, fault_of)
            if self.augmenter is not None:
                yield from self.augmenter.rows(part, wordings, ledger, fault_of)


def plan_expansion(
    config: DatasetConfig,
    *,
    base_model: str | None,
    cache: str,
    seed: int = 0,
    on_use: Callable[[DeviceUse], None] = lambda _use: None,
) -> Expansion:
    """Return the engines of ``synthetic_generation`` and ``augmentation``.

    Args:
        config: the ``dataset`` section of a configuration.
        base_model: see `build_dataset`.
        cache: likewise.
        seed: of typing mistakes and frames.
        on_use: called with the use of devices by a base model or vLLM.

    Raises:
        InputError: a model is named and no endpoint is configured, or a method needs a model.
        ClusterError: a model in the cluster is to invent or to change, and Ray is not running.
    """
    synthetic, augmentation = config.synthetic_generation, config.augmentation
    planner = _Planner(config.preprocessing.qa_generation, base_model, cache)
    synthesizer = None
    if synthetic.enabled:
        synthesizer = planner.synthesizer(synthetic.base_model, synthetic.examples_per_passage, on_use)
    augmenter = None
    if augmentation.enabled:
        augmenter = Augmenter(augmentation, planner.expander_for(config, on_use), seed)
    return Expansion(synthesizer, augmenter, synthetic.diversity_threshold)


def engines_of(
    config: DatasetConfig, *, base_model: str | None, environment: Mapping[str, str], has_gpu: bool = False
) -> frozenset[Generator]:
    """Return the engines that write pairs, invent examples or change them.

    Args:
        config: the ``dataset`` section of a configuration.
        base_model: ``base_model`` of the configuration.
        has_gpu: see `choose_generator`.

    Raises:
        InputError: see `choose_generator`.
    """
    found = list(expansion_models(config, base_model=base_model, environment=environment).values())
    planner = _Planner(config.preprocessing.qa_generation, base_model, "", environment)
    if config.makes_questions:
        found.append(choose_generator(planner.qa, base_model=base_model, environment=environment, has_gpu=has_gpu))
    return frozenset(choice.generator for choice in found)


def expansion_models(
    config: DatasetConfig, *, base_model: str | None, environment: Mapping[str, str]
) -> dict[str, Choice]:
    """Return the engines that invent and change examples, by the name of their section; a section that is off has none.

    Args:
        config: the ``dataset`` section of a configuration.
        base_model: ``base_model`` of the configuration.

    Raises:
        InputError: see `choose_generator`.
    """
    planner = _Planner(config.preprocessing.qa_generation, base_model, "", environment)
    asked = {
        "synthetic_generation": (config.synthetic_generation.enabled, config.synthetic_generation.base_model),
        "augmentation": (config.augmentation.enabled, config.augmentation.model),
    }
    return {name: planner.choose(model) for name, (is_on, model) in asked.items() if is_on}


@dataclass(frozen=True)
class _Planner:
    """Chooses engines.

    Args:
        qa: settings of the endpoint, and the model where none is named.
        base_model: folder or reference of the base model.
        cache: folder or URI for an endpoint's answers.
    """

    qa: QaGeneration
    base_model: str | None
    cache: str
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def synthesizer(self, model: str | None, count: int, on_use: Callable[[DeviceUse], None]) -> Synthesizer:
        choice = self.choose(model)
        match choice.generator:
            case "rules":
                return Synthesizer(by_templates, count)
            case "endpoint" | "vllm":
                return Synthesizer(by_model(self._expander(choice, on_use)), count)
            case "base_model":
                require_cluster()
                plan = plan_writer(choice, self._questions_only(None), cache=self.cache, environment=self.environment)
                assert isinstance(plan, BaseModelPlan)  # as chosen
                sampling = replace(plan.sampling or Sampling(), seed=_OTHER_DRAWS)
                plan = replace(plan, folder=Path(choice.model), sampling=sampling)
                return Synthesizer(by_base_model(plan, on_use), count)

    def expander_for(self, config: DatasetConfig, on_use: Callable[[DeviceUse], None]) -> ModelExpander | None:
        augmentation = config.augmentation
        choice = self.choose(augmentation.model)
        if choice.generator in {"endpoint", "vllm"}:
            return self._expander(choice, on_use)
        if "back_translation" in augmentation.methods:
            raise InputError(
                "dataset.augmentation.methods has back_translation, and there is no model to translate with.",
                hint="Set dataset.augmentation.model to a model of an endpoint, or to 'vllm'.",
            )
        return None

    def choose(self, model: str | None) -> Choice:
        qa = self._questions_only(model)
        return choose_generator(qa, base_model=self.base_model, environment=self.environment)

    def _questions_only(self, model: str | None) -> QaGeneration:
        """Return the settings for another model; kinds, personas and difficulties are those of pairs."""
        return QaGeneration(model=model or self.qa.model, endpoint=self.qa.endpoint, vllm=self.qa.vllm)

    def _expander(self, choice: Choice, on_use: Callable[[DeviceUse], None]) -> ModelExpander:
        qa = self._questions_only(choice.model)
        machine = None
        if choice.generator == "vllm":
            require_cluster()
            machine = largest_node()
        plan = plan_writer(choice, qa, cache=self.cache, environment=self.environment, machine=machine)
        assert isinstance(plan, EndpointPlan | VllmPlan)  # as chosen
        return ModelExpander(plan, on_use)
