"""Deadlines: twice what is promised on a quiet machine, and longer on a busy one by the processes for each core."""

import os
import time

__all__ = ["patience", "wait_until"]


def patience(seconds: float) -> float:
    """Return ``seconds`` times the machine's load per core, at least twice: the load is that of the last minute."""
    return seconds * max(2.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(holds, within_s, said=lambda: ""):
    """Look until a condition holds, and return its value.

    Args:
        holds: the condition; anything true ends the wait.
        within_s: seconds on a quiet machine.
        said: text that the failure shows.
    """
    started = time.monotonic()
    while not (value := holds()):
        waited = time.monotonic() - started
        assert waited < patience(within_s), f"not within {within_s} s, nor {waited:.1f} s on this machine: {said()}"
        time.sleep(0.05)
    return value
