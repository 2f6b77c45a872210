"""Word of how a training or a sweep goes on that a signal ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from llamafarm_ray.cli.terminal import errors

__all__ = ["said_how_to_go_on"]

_SIGNALS = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


@contextlib.contextmanager
def said_how_to_go_on(text: str) -> Iterator[None]:
    """Say a sentence if Ctrl-C, SIGTERM or SIGHUP ends the block."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in _SIGNALS):
            with contextlib.suppress(OSError):  # the terminal may be gone
                errors.line(text)
        raise
