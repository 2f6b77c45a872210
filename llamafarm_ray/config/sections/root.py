"""The whole configuration: one line from documents to a served model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from llamafarm_ray.config.sections.base import Mistake, Names, Section, section
from llamafarm_ray.config.sections.cluster import Cluster
from llamafarm_ray.config.sections.dataset import DatasetConfig, RowFormat
from llamafarm_ray.config.sections.deployment import DEFAULT_MAX_LORA_RANK, LORA_RANKS, Deployment
from llamafarm_ray.config.sections.evaluation import Evaluation, holdout_ratio
from llamafarm_ray.config.sections.fine_tuning import FineTuning
from llamafarm_ray.config.sections.monitoring import Monitoring
from llamafarm_ray.config.sections.rollout import RolloutKind
from llamafarm_ray.config.sections.tuning import Tuning
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import AUTO_MODEL, MODEL_NAME, Version

__all__ = ["Config"]


def _check_name(value: str) -> str:
    if not re.fullmatch(MODEL_NAME, value):
        raise ValueError("must be 1 to 96 letters, digits and, inside, '.', '_' or '-'")
    if value == AUTO_MODEL:
        raise ValueError(f"must be another name than {AUTO_MODEL!r}, which asks for the best model for a task")
    return value


def _check_version(value: str) -> str:
    try:
        return str(Version.parse(value))
    except InputError:
        raise ValueError("must be a semantic version such as 1.2.0 or 1.2.0-rc.1") from None


class Config(Section):
    """One file describes the whole line; every key has a default that works on one machine."""

    name: Annotated[
        str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": f"^{MODEL_NAME}$"})
    ] = Field(default="custom-model", description="Name under which the trained model is registered.")
    version: Annotated[str, AfterValidator(_check_version)] | None = Field(
        default=None, description="Semantic version to register, e.g. 1.2.0; unset: the next free one."
    )
    base_model: str | None = Field(
        default=None,
        min_length=1,
        description="Model to start from: a folder, a registered model, a hub id, or any source that `download` takes.",
    )
    description: str | None = Field(default=None, description="Purpose of the model; recorded with it.")
    domain: str | None = Field(
        default=None, min_length=1, description="Field the model is for, e.g. medical; listed by."
    )
    license: str | None = Field(
        default=None, min_length=1, description="Licence of the trained model; recorded with it."
    )
    tags: Names = Field(default=(), description="Words to find the model by.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Seed of every random choice: same seed, same result.")
    home: str | None = Field(
        default=None,
        min_length=1,
        description="Folder or bucket that holds everything that lasts; unset: $LLAMAFARM_HOME.",
    )
    cluster: Cluster = section(Cluster, "Where the work runs.")
    fine_tuning: FineTuning = section(FineTuning, "Training of the model.")
    dataset: DatasetConfig = section(DatasetConfig, "The examples.")
    evaluation: Evaluation = section(Evaluation, "What is measured.")
    deployment: Deployment = section(Deployment, "Serving of the model.")
    monitoring: Monitoring = section(Monitoring, "What is recorded.")
    tuning: Tuning = section(Tuning, "Settings that a sweep tries.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_follows(cls, data: object) -> object:
        """Give keys that were left out the value that another key implies, so that there is one place to read."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        held_out = holdout_ratio(_get(data, "evaluation", "test_set"))
        if held_out is not None:
            _fill(data, ("dataset", "validation", "split_ratio"), held_out)
        written = _get(data, "dataset", "format")
        if written in get_args(RowFormat):
            _fill(data, ("dataset", "preprocessing", "format"), written)
        fewest = _get(data, "deployment", "auto_scaling", "min_replicas")
        if isinstance(fewest, int) and fewest > 1:
            _fill(data, ("deployment", "replicas"), fewest)
        strategy = _get(data, "deployment", "strategy")
        if strategy in get_args(RolloutKind):
            _fill(data, ("deployment", "rollout", "kind"), strategy)
        rank = _get(data, "fine_tuning", "parameters", "r")
        if isinstance(rank, int) and DEFAULT_MAX_LORA_RANK < rank <= LORA_RANKS[-1]:
            _fill(data, ("deployment", "max_lora_rank"), next(limit for limit in LORA_RANKS if limit >= rank))
        return data

    def mistakes(self) -> Iterator[Mistake]:
        """A held-out share that is given twice must be the same."""
        held_out, ratio = self.evaluation.holdout_ratio, self.dataset.validation.split_ratio
        if held_out is not None and held_out != ratio:
            yield Mistake(
                ("evaluation.test_set", "dataset.validation.split_ratio"),
                f"is {self.evaluation.test_set}, but {{1}} is {ratio}; keep one.",
            )


def _get(data: dict[str, object], *path: str) -> object:
    here: object = data
    for name in path:
        here = here.get(name) if isinstance(here, dict) else None
    return here


def _fill(data: dict[str, object], path: tuple[str, ...], value: object) -> None:
    """Set a key that is absent, in copies of the mappings on the way; leave what isn't a mapping to validation."""
    here = data
    for name in path[:-1]:
        below = here.get(name, {})
        if not isinstance(below, dict):
            return
        copied = dict(below)
        here[name] = copied
        here = copied
    here.setdefault(path[-1], value)
