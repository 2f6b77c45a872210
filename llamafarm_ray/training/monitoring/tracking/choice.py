"""Choice of a run's trackers: checked by the driver, opened by the first worker."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

from llamafarm_ray.config import Monitoring
from llamafarm_ray.config.sections.monitoring import WandbMode
from llamafarm_ray.errors import UserError
from llamafarm_ray.training.monitoring.tracking.base import RunInfo, Tracker

__all__ = ["Trackers"]

_PACKAGES: Final = {"wandb_project": ("wandb", "Weights & Biases"), "mlflow_uri": ("mlflow", "MLflow")}
_PASSED_ON: Final = ("WANDB_", "MLFLOW_", "DATABRICKS_")
_OFFLINE: Final = {"offline", "dryrun"}


@dataclass(frozen=True, slots=True)
class Trackers:
    """The trackers of a run, nothing opened yet.

    Args:
        wandb_mode: None: no W&B.
        notes: choices that the configuration left open, a sentence each.
        environment: the driver's variables that W&B and MLflow read (keys, proxies), for a worker elsewhere.
    """

    monitoring: Monitoring
    experiment: str
    wandb_mode: WandbMode | None
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def choose(cls, monitoring: Monitoring, *, experiment: str) -> Self:
        """Check what can be known before a run starts.

        Args:
            experiment: MLflow's experiment where the configuration names none.

        Raises:
            UserError: a tracker's package is not installed, or W&B would ask for a key that is not there.
        """
        for key, (package, name) in _PACKAGES.items():
            if getattr(monitoring, key) is not None and importlib.util.find_spec(package) is None:
                raise UserError(
                    f"monitoring.{key} is set, but {name} is not installed.",
                    hint=f"pip install 'llamafarm_ray[{package}]', or leave the key out.",
                )
        mode, notes = _choose_wandb_mode(monitoring)
        environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        return cls(monitoring, monitoring.mlflow_experiment or experiment, mode, notes, environment)

    def openers(self, info: RunInfo) -> dict[str, Callable[[], Tracker]]:
        """Return an opener for each tracker, by its name. Sets the environment; imports nothing."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        made: dict[str, Callable[[], Tracker]] = {}
        if self.monitoring.tensorboard:
            made["TensorBoard"] = lambda: _tensorboard(info)
        if self.wandb_mode is not None:
            made["Weights & Biases"] = lambda: self._wandb(info)
        if self.monitoring.mlflow_uri is not None:
            made["MLflow"] = lambda: self._mlflow(info)
        return made

    def _wandb(self, info: RunInfo) -> Tracker:
        from llamafarm_ray.training.monitoring.tracking.wandb import WandbTracker

        project, mode = self.monitoring.wandb_project, self.wandb_mode
        assert project is not None and mode is not None  # noqa: PT018 - chosen together
        return WandbTracker(info, project=project, entity=self.monitoring.wandb_entity, mode=mode)

    def _mlflow(self, info: RunInfo) -> Tracker:
        from llamafarm_ray.training.monitoring.tracking.mlflow import MlflowTracker

        return MlflowTracker(info, uri=str(self.monitoring.mlflow_uri), experiment=self.experiment)


def _tensorboard(info: RunInfo) -> Tracker:
    from llamafarm_ray.training.monitoring.tracking.tensorboard import TensorBoardTracker  # imports torch

    return TensorBoardTracker(info)


def _choose_wandb_mode(monitoring: Monitoring) -> tuple[WandbMode | None, tuple[str, ...]]:
    if monitoring.wandb_project is None:
        return None, ()
    asked = monitoring.wandb_mode or os.environ.get("WANDB_MODE", "").lower()
    if asked in _OFFLINE:
        return "offline", ()
    if asked == "disabled":
        return None, ("Weights & Biases is left out: WANDB_MODE is disabled.",)
    if _has_wandb_key():
        return "online", ()
    if asked == "online":
        raise UserError(
            "Weights & Biases has no key to record with: neither WANDB_API_KEY nor `wandb login` gave one.",
            hint="Set it, or set monitoring.wandb_mode: offline.",
        )
    return "offline", ("Weights & Biases records offline, for `wandb sync` later: no WANDB_API_KEY is set.",)


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
