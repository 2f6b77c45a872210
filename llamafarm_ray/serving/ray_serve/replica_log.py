"""Ray Serve's log of a replica, which vLLM closes when it sets logging up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler

__all__ = ["serve_log_kept"]


@contextmanager
def serve_log_kept() -> Iterator[None]:
    """Restore Serve's log after a block in which :func:`logging.config.dictConfig` was called.

    That closes every handler of the process. Serve's then has no file: nothing is logged any more, and a Serve
    controller that comes back after its death, and asks each replica for its log's name, takes the error for a sick
    replica and replaces it.
    """
    handlers = [one for one in logging.getLogger("ray.serve").handlers if isinstance(one, MemoryHandler)]
    targets = [(handler, handler.target) for handler in handlers if handler.target is not None]
    try:
        yield
    finally:
        for handler, target in targets:
            handler.setTarget(target)  # a file handler that was closed opens its file again
