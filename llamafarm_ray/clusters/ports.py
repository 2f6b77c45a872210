"""Ports for the processes that a command starts on this machine."""

from __future__ import annotations

import secrets
import socket

__all__ = ["free_port", "free_ports"]

_PORTS = range(20_000, 30_000)
"""Above those of Ray's workers (10002 to 19999), and below those of Ray Serve's replicas (30000 to 31000) and those
that Linux gives to outgoing connections and to callers that ask for any port (32768 on). A starting Ray takes dozens
of those, and the port chosen here is bound seconds later."""
_TRIES = 1000


def free_port() -> int:
    """A TCP port of this machine that nothing uses now; see `free_ports`."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of ``count`` neighbouring TCP ports of this machine that nothing uses now.

    The system assigns them only by name. They are drawn at random, so that two callers at the same time hardly ever
    get the same.

    Raises:
        OSError: there are none.
    """
    for _ in range(_TRIES):
        first = secrets.choice(_PORTS[: len(_PORTS) - count + 1])
        if all(map(_is_free, range(first, first + count))):
            return first
    raise OSError(f"Of {_TRIES} places between ports {_PORTS.start} and {_PORTS.stop - 1}, none has {count} free ones.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
