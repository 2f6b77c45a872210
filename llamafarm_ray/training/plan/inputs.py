"""Inputs of a training run, and the callbacks on its course."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ray.data

from llamafarm_ray.training.result import Progress
from llamafarm_ray.training.tokens.token_files import TokenStore
from llamafarm_ray.types import DeviceUse

__all__ = ["TrainingCallbacks", "TrainingInputs"]


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """Rows and base model of a run.

    Args:
        train_rows: rows with the objective's columns, such as ``messages``.
        validation_rows: likewise; their loss is measured at the end of each epoch, and after the last step.
        base_model: a folder with config.json, safetensors and a tokenizer that has a chat template.
        lineage: origin of the inputs, in plain values; ``training.json`` keeps it for the registry.
        fetch_base: brings the base model to a node that has no such folder, and returns its folder there.
        shared: URI of a folder that all nodes reach. On a cluster of several nodes checkpoints are below it, unless
            ``checkpoint_location`` is set, and outputs pass through it from nodes that don't see the output's parent.
        tokens: tokens of these rows that were made before; those for other settings are passed over.
        passes: passes over the questions that the training rows are written in; fewer epochs are chosen for several.
    """

    train_rows: ray.data.Dataset
    validation_rows: ray.data.Dataset | None
    base_model: Path
    lineage: Mapping[str, object] = field(default_factory=dict)
    fetch_base: Callable[[], Path] | None = None
    shared: str | None = None
    tokens: TokenStore | None = None
    passes: int = 1


@dataclass(frozen=True, slots=True)
class TrainingCallbacks:
    """Callbacks of the process that starts a run, each called in its thread.

    Args:
        on_progress: called after each step; a run that lost a worker repeats those since its last checkpoint. An error
            of it ends the run as failed, and is raised from `train`.
        on_note: called with what else there is to say: that the run goes on after a checkpoint, that a worker was lost.
            By default the log has it.
        on_use: called with the use of devices since the last call, from the workers' start on.
    """

    on_progress: Callable[[Progress], None] | None = None
    on_note: Callable[[str], None] | None = None
    on_use: Callable[[DeviceUse], None] | None = None
