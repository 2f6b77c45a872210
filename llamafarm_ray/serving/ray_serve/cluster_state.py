"""Tables of the connected cluster's control store, which Ray's public API does not have without a dashboard.

Of Ray's private parts they rely on ``GlobalState.actor_table`` and ``GlobalState.job_table`` (a test names both, so
that an upgrade that moves one fails there).
"""

from __future__ import annotations

from typing import TypedDict

from ray._private.state import state

__all__ = ["ActorEntry", "JobEntry", "actors", "jobs"]


class ActorAddress(TypedDict):
    """Address of an actor's process; the port is 0 before it has a place."""

    Port: int


class ActorEntry(TypedDict):
    """Entries of the table of actors that are read here."""

    Name: str
    Address: ActorAddress


class JobEntry(TypedDict):
    """Entries of the table of jobs that are read here; the end is in milliseconds since 1970."""

    JobID: str
    Entrypoint: str
    IsDead: bool
    EndTime: int


def actors(in_state: str) -> list[ActorEntry]:
    """Return the actors in a state, such as ``ALIVE``."""
    return list(state.actor_table(None, None, in_state).values())


def jobs() -> list[JobEntry]:
    """Return the jobs, this process's among them."""
    return list(state.job_table())
