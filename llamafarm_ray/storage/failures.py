"""Errors of file systems and object stores, as errors of this package."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from llamafarm_ray.errors import LlamaFarmError, StorageError

__all__ = ["NO_SPACE", "as_storage_errors", "store_code"]

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
"""The error numbers of a full disk or an exhausted quota."""

_CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile in AWS_PROFILE."
_RIGHTS = "Check the credentials and their permissions."
_NETWORK = "Check the network and, where the store is not Amazon's, AWS_ENDPOINT_URL."
_HINTS = {
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "ProfileNotFound": _CREDENTIALS,
    "NoSuchBucket": "Create the bucket, or correct its name.",
    "AccessDenied": _RIGHTS,
    "InvalidAccessKeyId": _RIGHTS,
    "SignatureDoesNotMatch": _RIGHTS,
    "ExpiredToken": _RIGHTS,
    "403": _RIGHTS,
    "PermissionError": "Check who may read and write there.",
    "EndpointConnectionError": _NETWORK,
    "ConnectTimeoutError": _NETWORK,
    "ReadTimeoutError": _NETWORK,
    "ConnectionClosedError": _NETWORK,
    "TimeoutError": _NETWORK,
}
"""By an object store's error code or an exception's class (botocore's names)."""


@contextlib.contextmanager
def as_storage_errors(what: str, passes: tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Raise a driver's errors as :class:`StorageError`.

    Drivers raise ``OSError``, botocore's own tree, ``ValueError`` for a bad endpoint and more, so everything is caught
    here, where nothing but a driver's call runs.

    Args:
        what: the start of the message, ``"s3://bucket/x can't be read"``.
        passes: errors with a meaning for the caller, which are not changed.
    """
    try:
        yield
    except LlamaFarmError:
        raise
    except Exception as error:  # each file system has errors of its own
        # A missing bucket is no missing file: nothing can be written there either.
        if isinstance(error, passes) and store_code(error) != "NoSuchBucket":
            raise
        raise StorageError(f"{what}: {str(error) or type(error).__name__}.", hint=_hint(error)) from error


def store_code(error: BaseException) -> str:
    """The object store's code for an error (``NoSuchBucket``), empty where it is none of a store's."""
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(code)


def _hint(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return "Free some space there, or use another place."
    names = [store_code(error), *(kind.__name__ for kind in type(error).__mro__)]
    return next((_HINTS[name] for name in names if name in _HINTS), "")
