"""Probes of a store before the first durable write: exclusive creates, and its clock."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import secrets
from pathlib import Path

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage import local
from llamafarm_ray.storage.location import Location

__all__ = ["check_exclusive", "store_time"]

_MARKER = "probe/exclusive-create"
_CLOCK = "probe/clock"
_SAYS = (
    b"Written to see that the store refuses to write this name again. Leave it here; it saves each writer a request.\n"
)


def check_exclusive(home: Location) -> dt.datetime | None:
    """Check that a store refuses to create a name that is taken, and return the store's time if the refusal has it.

    A folder on this machine is not probed: its file system decides. The marker stays, so that later probes of the same
    store take one request.

    Raises:
        StorageError: the store creates the name twice, or can't be written.
    """
    if home.is_local:
        return None
    for _ in range(2):
        try:
            home.create(_MARKER, _SAYS)
        except FileExistsError as error:
            return _told_time(error)
    raise StorageError(
        f"{home.uri} ignores conditional writes (If-None-Match: *): it created the name {_MARKER} twice, so two "
        "writers could both be told that they wrote the same commit.",
        hint="Copy the home to a store that honours them: AWS S3, MinIO, Ceph, R2, or a local folder.",
    )


def store_time(home: Location) -> dt.datetime | None:
    """Return the time by a store's own clock, that of a file written just now; ``None`` if the store reports none.

    Raises:
        StorageError: the store can't be written.
    """
    if home.is_local:
        return local.clock(Path(home.root))
    name = f"{_CLOCK}/{secrets.token_hex(8)}"
    home.write(name, b"")
    try:
        return next((file.modified for file in home.walk(_CLOCK) if file.name == name), None)
    finally:
        home.remove(name)


def _told_time(error: BaseException | None) -> dt.datetime | None:
    """Return the time that an object store's answer was dated with, from the error that it became."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
            with contextlib.suppress(TypeError, ValueError):
                return email.utils.parsedate_to_datetime(date).astimezone(dt.UTC)
        error = error.__cause__
    return None
