"""Tables of the connected cluster's control store, which Ray's public API does not have without a dashboard.

Of Ray's private parts they rely on ``GlobalState.actor_table`` and ``GlobalState.job_table`` (a test names both, so
that an upgrade that moves one fails there).
"""

from __future__ import annotations

from typing import Any

from ray._private.state import state

__all__ = ["actors", "jobs"]


def actors(in_state: str) -> list[dict[str, Any]]:
    """Return the actors in a state, such as ``ALIVE``, with ``Name`` and ``Address`` among their keys."""
    return list(state.actor_table(None, None, in_state).values())


def jobs() -> list[dict[str, Any]]:
    """Return the jobs, this process's among them, with ``JobID``, ``Entrypoint``, ``IsDead`` and ``EndTime`` (ms)."""
    return list(state.job_table())
