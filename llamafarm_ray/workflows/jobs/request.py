"""A verb as a job's shell command and configuration: the verb again, with every path as it is on the cluster."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.config import Config, resolved
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.workflows.jobs.package import OUTPUTS, WorkingDirectory, plain_name

__all__ = ["CONFIG", "JobRequest", "command_of", "folder_of", "table_of"]

CONFIG = "llamafarm-job.json"
"""Name of a job's configuration in its working directory."""
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "create-dataset": ("dataset.source.path",),
    "deploy": ("base_model", "deployment.adapters"),
    "evaluate": (
        "base_model",
        "dataset.path",
        "evaluation.test_set",
        "evaluation.questions",
        "evaluation.corpus",
        "evaluation.benchmark_data",
        "evaluation.canaries",
    ),
}
_TRAINING_INPUTS = ("base_model", "dataset.path", "dataset.mixture", "dataset.source.path", "evaluation.test_set")
_LASTING = ("home", "fine_tuning.training.checkpoint_location")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A verb with all that it was told.

    Attributes:
        verb: ``train``, ``create-dataset``, ...
        inputs: options that name a file, a folder or something else to read, with their values.
        outputs: options that name outputs, with their paths.
        flags: options without a value.
        returns_files: True if small outputs are to come back in what the job prints, because somebody follows it.
    """

    verb: str
    config: Config
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    outputs: Mapping[str, Path | None] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    returns_files: bool = False

    def new_id(self) -> str:
        """A name for a job of this request that no other job has, such as ``support-bot-train-3f2a9c01``."""
        return f"{self.config.name[:60]}-{self.verb}-{secrets.token_hex(4)}"


def folder_of(directory: WorkingDirectory) -> str:
    """Return the folder of relative outputs, below the home directory there."""
    return "/".join((OUTPUTS, plain_name(Identity.from_environment().user), plain_name(directory.folder.name)))


def command_of(request: JobRequest, directory: WorkingDirectory) -> str:
    """The shell command of the job: the verb again, with paths as they are there."""
    words = ["python", "-m", "llamafarm_ray", "models", request.verb, "--config", CONFIG, *request.flags]
    for option, value in request.inputs.items():
        if value is not None:
            words += [option, directory.take(option, value)]
    command = shlex.join(words)
    for option, path in request.outputs.items():
        if path is None:
            continue
        name = os.path.normpath(path)
        if name == os.pardir or name.startswith(f"{os.pardir}{os.sep}"):
            raise InputError(
                f"{option}: {str(path)!r} leads out of the working directory.",
                hint="Write a path inside of it, or an absolute one of the cluster.",
            )
        place = shlex.quote(name) if path.is_absolute() else f'"$HOME"/{shlex.quote(f"{folder_of(directory)}/{name}")}'
        command += f" {option} {place}"
    return command


def table_of(request: JobRequest, directory: WorkingDirectory) -> dict[str, Any]:
    """The configuration as the job reads it."""
    table = resolved(request.config)
    table["cluster"]["address"] = None
    if request.verb == "create-dataset":
        table["dataset"]["path"] = None  # what it writes, which is an option there
    dataset = request.config.dataset
    for key in _INPUTS.get(request.verb, _TRAINING_INPUTS):
        if key == "dataset.source.path" and request.verb != "create-dataset" and (dataset.path or dataset.mixture):
            continue  # it won't be read
        section, name = _place(table, key)
        match section.get(name):
            case str(text):
                section[name] = directory.take(key, text)
            case [*texts]:
                section[name] = [directory.take(key, text) for text in texts]
            case dict(weights):
                section[name] = {directory.take(key, text): weight for text, weight in weights.items()}
            case _:
                pass
    for key in _LASTING:
        section, name = _place(table, key)
        folder = section.get(name)
        if isinstance(folder, str) and "://" not in folder and not folder.startswith(("/", "~")):
            raise InputError(
                f"{key}: {folder!r} would be in the job's own folder, which goes with the job.",
                hint="Name a bucket (s3://...), or an absolute folder of the cluster.",
            )
    home = os.environ.get("LLAMAFARM_HOME")
    if table.get("home") is None and home and "://" in home:  # a folder of this machine says nothing about the cluster
        table["home"] = home
    return table


def _place(table: dict[str, object], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key, and the key's last name."""
    *above, name = key.split(".")
    section: Any = table
    for part in above:
        section = section.get(part) or {}
    return section, name
