"""Checks of a server's answers: the range that was asked for, its end, and the file that a sidecar describes."""

from __future__ import annotations

from llamafarm_ray.storage.downloads.remote import Answer, TransientError, Wanted
from llamafarm_ray.storage.downloads.sidecar import Head

__all__ = ["begins_again", "check_end", "is_another"]


def is_another(head: Head, wanted: Wanted) -> bool:
    """Return whether a sidecar describes another file than the one that is wanted now."""
    if wanted.size_bytes is not None and head.size_bytes != wanted.size_bytes:
        return True
    if wanted.digest is not None and head.digest:
        return head.digest != wanted.digest
    is_other = bool(wanted.validator) and bool(head.validator) and wanted.validator != head.validator
    return is_other or head.address != wanted.remote.shown


def begins_again(answer: Answer, at: int, begin: int) -> bool:
    """Return whether an answer begins with the piece again, where a later byte of it was asked for.

    Raises:
        TransientError: it begins elsewhere.
    """
    if answer.begin not in {at, begin}:
        raise TransientError("ignored the range that it was asked for")
    return answer.begin != at


def check_end(found: int, expected: int) -> None:
    """Check that an answer has as many bytes as were expected.

    Raises:
        TransientError: it has fewer.
    """
    if found < expected:
        raise TransientError(f"ended after {found} of {expected} bytes")
