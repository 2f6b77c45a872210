"""Use of a Ray that stays: drivers and jobs that run, and applications that Serve has."""

from __future__ import annotations

import time

import ray

from llamafarm_ray.serving.ray_serve.cluster_state import JobEntry, jobs

__all__ = ["idle_s"]

_DASHBOARDS = ("ray-dashboard", "ray/dashboard/")
"""In the command lines of the dashboard's processes."""
_CONTROLLER = {"name": "SERVE_CONTROLLER_ACTOR", "namespace": "serve"}


def idle_s(since: float) -> float:
    """Return the seconds since the last use of the connected Ray; 0 while it is in use.

    Args:
        since: time from which on disuse counts at most, in seconds since 1970.
    """
    own = ray.get_runtime_context().get_job_id()
    others = [job for job in jobs() if job["JobID"] != own and not _is_rays(job)]
    if not all(job["IsDead"] for job in others) or _serves():
        return 0.0
    last = max([since, *(float(job["EndTime"]) / 1000 for job in others)])
    return max(0.0, time.time() - last)


def _is_rays(job: JobEntry) -> bool:
    """Return True for the dashboard's own connections, which last as long as it does."""
    return any(name in job["Entrypoint"] for name in _DASHBOARDS)


def _serves() -> bool:
    if _CONTROLLER not in ray.util.list_named_actors(all_namespaces=True):
        return False
    from ray import serve  # takes a second, and most Rays serve nothing

    return bool(serve.status().applications)
