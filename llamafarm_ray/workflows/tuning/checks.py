"""Checks and paths of a sweep before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from llamafarm_ray.config import Config
from llamafarm_ray.config.sections.fine_tuning import CHANGEABLE_MIDWAY
from llamafarm_ray.errors import ConfigError, InputError, UserError
from llamafarm_ray.registry.service import registry_home

__all__ = ["check_changeable", "default_folder", "made_by", "no_validation", "with_whole_paths"]


def check_changeable(domains: Iterable[str]) -> None:
    """Check that PBT can change the searched settings in the middle of a training.

    Raises:
        ConfigError: a searched key can't change there.
    """
    allowed = {f"fine_tuning.training.{key}" for key in CHANGEABLE_MIDWAY}
    problems = [
        f"tuning.parameters.{key}: can't change in the middle of a training, as tuning.scheduler pbt does; "
        f"only {', '.join(CHANGEABLE_MIDWAY)} can. asha has no such limit."
        for key in domains
        if key not in allowed
    ]
    if problems:
        raise ConfigError("the search space", problems)


def with_whole_paths(config: Config) -> Config:
    """Return a configuration with absolute paths, since trials run in processes that may be elsewhere."""
    dataset, changes = config.dataset, dict[str, object]()
    if dataset.path is not None:
        whole = str(Path(dataset.path).expanduser().absolute())
        changes["dataset"] = dataset.model_copy(update={"path": whole})
    if config.base_model and Path(config.base_model).expanduser().is_dir():
        changes["base_model"] = str(Path(config.base_model).expanduser().absolute())
    return config.model_copy(update=changes)


def default_folder(config: Config) -> Path:
    """Return the folder of a sweep's state in a local home.

    Raises:
        InputError: the home is no folder of this machine.
    """
    home = registry_home(config.home)
    if not home.is_local:
        raise InputError(
            f"The home {home.uri} is no folder of this machine, and a sweep's state has to be in one.",
            hint="Name a folder that all nodes share with --output.",
        )
    return Path(home.root) / "tuning" / config.name


def no_validation() -> UserError:
    """Return the error for a sweep by validation loss without validation rows."""
    return UserError(
        "tuning.metric is validation_loss, but the dataset has no validation rows.",
        hint="Set dataset.validation.split_ratio, or tuning.metric to train_loss.",
    )


def made_by(output: Path) -> str:
    """Return the sweep that made a model's folder; empty if none did."""
    try:
        record = json.loads((output / "training.json").read_text(encoding="utf-8"))
        return str(record["lineage"]["sweep"]["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
