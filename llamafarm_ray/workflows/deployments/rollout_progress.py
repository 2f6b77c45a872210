"""Progress of rollouts, from the controllers of the deployments on record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamafarm_ray.registry import RegistryApi, RolloutRecord, RolloutStatus
from llamafarm_ray.workflows.deployments.rollouts import rollout_dict

if TYPE_CHECKING:
    from llamafarm_ray.serving.rollouts.progress import RolloutProgress

__all__ = ["Heard", "controllers", "lasted_s", "progress_dict"]

_ANSWER_S = 2.0
"""A controller that is busy for longer is not waited for."""
_NOBODYS = "No controller takes it further yet; one begins within seconds where its base model is served."


@dataclass(frozen=True, slots=True)
class Heard:
    """Reports of controllers.

    Attributes:
        progress: progress of rollouts, by their id.
        trouble: reason that one did not answer, in sentences; empty where all did.
    """

    progress: Mapping[str, RolloutProgress] = field(default_factory=dict)
    trouble: str = ""

    def missing(self, rollouts: Iterable[RolloutRecord]) -> str:
        """Return the reason that some rollouts' progress is unknown; empty where it is known."""
        if all(one.id in self.progress or not one.status.is_under_way for one in rollouts):
            return ""
        return self.trouble or _NOBODYS


@contextmanager
def controllers(registry: RegistryApi, address: str | None = None) -> Iterator[Callable[[], Heard]]:
    """For the time of a block, a function that asks the controllers how the rollouts under way go.

    It never fails: what can't be reached is told in :attr:`Heard.trouble`.

    Args:
        address: the controllers' cluster; by default the recorded one.

    Raises:
        InputError: nothing answers at an ``address`` that was given.
        ClusterError: likewise, it can't be used.
    """
    if not registry.refresh().deployments:  # nobody waits for Ray where nothing is deployed
        yield lambda: Heard(trouble="Nothing is deployed.")
        return
    from llamafarm_ray.workflows.clusters.cluster import connect, connect_if_up
    from llamafarm_ray.workflows.deployments.status import cluster_of

    if address is not None:
        with connect(address):
            yield lambda: _ask(registry)
        return
    with connect_if_up(cluster_of(registry) or "auto") as trouble:
        yield lambda: Heard(trouble=trouble) if trouble else _ask(registry)


def _ask(registry: RegistryApi) -> Heard:
    import ray
    from pydantic import ValidationError
    from ray.exceptions import RayError

    from llamafarm_ray.serving.deployment.rollout_actor import controller_actor
    from llamafarm_ray.serving.rollouts.progress import RolloutProgress

    found: dict[str, RolloutProgress] = {}
    troubles = []
    for application in sorted(registry.state.deployments):
        try:
            asked = controller_actor(registry.home.uri, application).progress.remote()
            told = ray.get(asked, timeout=_ANSWER_S)
            found.update({rollout: RolloutProgress.model_validate(one) for rollout, one in told.items()})
        except RayError:
            troubles.append(f"The controller of {application} does not answer.")
        except (AttributeError, ValidationError):
            troubles.append(f"The controller of {application} is another release's: deploying again replaces it.")
        except ValueError:
            troubles.append(f"The controller of {application} is not running.")
    return Heard(found, " ".join(troubles))


def lasted_s(rollout: RolloutRecord, now: dt.datetime) -> float:
    """For how many seconds a rollout has been in its step, without those in which it was paused."""
    newest = rollout.changes[-1]
    end = now if newest.status is RolloutStatus.RUNNING else newest.time
    return max(0.0, (end - rollout.step_since).total_seconds())


def progress_dict(rollout: RolloutRecord, heard: Heard, now: dt.datetime) -> dict[str, object]:
    """A rollout and how it goes, for programs.

    ``progress`` is ``None`` where no controller told, and ``progress_trouble`` then says why.
    """
    progress = heard.progress.get(rollout.id)
    return {
        **rollout_dict(rollout),
        "step_lasted_s": round(lasted_s(rollout, now), 3),
        "progress": progress.model_dump(mode="json") if progress is not None else None,
        "progress_trouble": heard.missing([rollout]),
    }
