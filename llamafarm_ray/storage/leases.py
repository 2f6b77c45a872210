"""Leases: records in the home of content that is being downloaded, which garbage collection keeps."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import secrets
from collections.abc import Callable, Iterator

from llamafarm_ray.errors import StorageError
from llamafarm_ray.storage.location import Location
from llamafarm_ray.types import Digest

__all__ = ["Leases"]

_LASTS = dt.timedelta(hours=1)
_RENEWED_AFTER = dt.timedelta(minutes=10)
_NAME = re.compile(r"([0-9a-f]{64})\.[0-9a-f]{12}\.json")


class Leases:
    """The leases of a home, one file each: ``leases/<manifest hex>.<random>.json``.

    Args:
        home: folder or bucket of the leases.
    """

    def __init__(self, home: Location) -> None:
        self._home = home

    @contextlib.contextmanager
    def lease(self, digest: Digest) -> Iterator[Callable[[], None]]:
        """Hold a lease; the function that is yielded, called often, renews it when it is time.

        A home that can't be written, such as a bucket for reading only, is used without a lease.
        """
        name = f"leases/{digest.hex}.{secrets.token_hex(6)}.json"
        written = self._write(name)

        def renew() -> None:
            nonlocal written
            if written is not None and _now() - written >= _RENEWED_AFTER:
                written = self._write(name) or written

        try:
            yield renew
        finally:
            if written is not None:
                with contextlib.suppress(StorageError):  # it expires
                    self._home.remove(name)

    def leased(self) -> set[Digest]:
        """The digests with a lease that has not expired.

        Raises:
            StorageError: the home can't be read.
        """
        return {digest for _, digest, expires in self._read() if expires > _now()}

    def drop_expired(self) -> None:
        """Delete the leases that expired or can't be read: those of processes that were killed.

        Raises:
            StorageError: the home can't be read or written.
        """
        for name, _, expires in self._read():
            if expires <= _now():
                self._home.remove(name)

    def _read(self) -> list[tuple[str, Digest, dt.datetime]]:
        matches = [match for name in self._home.names("leases") if (match := _NAME.fullmatch(name))]
        names = [f"leases/{match[0]}" for match in matches]
        found = zip(names, matches, self._home.read_many(names), strict=True)
        return [(name, Digest(f"sha256:{match[1]}"), _expiry(data)) for name, match, data in found if data is not None]

    def _write(self, name: str) -> dt.datetime | None:
        """Write the lease; return its time, or ``None`` where it can't be written."""
        now = _now()
        try:
            self._home.write(name, json.dumps({"expires": (now + _LASTS).isoformat()}).encode())
        except StorageError:
            return None
        return now


def _expiry(data: bytes) -> dt.datetime:
    """Return a lease's expiry; the beginning of time where it can't be read."""
    try:
        return dt.datetime.fromisoformat(json.loads(data)["expires"]).astimezone(dt.UTC)
    except (ValueError, KeyError, TypeError):
        return dt.datetime.min.replace(tzinfo=dt.UTC)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
