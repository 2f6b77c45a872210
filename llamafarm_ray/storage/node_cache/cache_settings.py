"""Settings of a node's cache in the environment."""

from __future__ import annotations

import datetime as dt
import os

from llamafarm_ray.config.values import MemorySize
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import duration

__all__ = ["cache_limit_setting", "compress_after_setting"]


def cache_limit_setting() -> int | None:
    """Return the bytes of ``LLAMAFARM_CACHE_MAX``; ``None`` where it is not set.

    Raises:
        InputError: it is no amount of bytes.
    """
    text = os.environ.get("LLAMAFARM_CACHE_MAX")
    if not text:
        return None
    try:
        return MemorySize.parse(text).num_bytes
    except ValueError as error:
        raise InputError(f"LLAMAFARM_CACHE_MAX is {text!r}: it {error}.", hint="Write it like 20GB or 20Gi.") from None


def compress_after_setting() -> dt.timedelta | None:
    """Return the time of ``LLAMAFARM_CACHE_COMPRESS_AFTER``; ``None`` where it is not set.

    Raises:
        InputError: it is no length of time.
    """
    text = os.environ.get("LLAMAFARM_CACHE_COMPRESS_AFTER")
    try:
        return duration(text) if text else None
    except InputError as error:
        raise InputError(f"LLAMAFARM_CACHE_COMPRESS_AFTER: {error.message}", hint=error.hint) from None
