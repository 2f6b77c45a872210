"""Open the file system of a URI, with timeouts for object stores."""

from __future__ import annotations

import functools
import os
import socket

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from llamafarm_ray.errors import InputError

__all__ = ["open_uri"]

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 15
"""Seconds until an object store must begin its answer, once it has the whole request."""
_REQUESTS = 3
"""Attempts without AWS_MAX_ATTEMPTS, after lost connections, throttling and errors of the store. So a silent store is
an error after 3 x 15 s and some pauses. By the libraries' own defaults that takes half an hour: botocore tries five
times, and each of s3fs's two loops around it again five times."""
_PATIENT_REQUESTS = 20
"""The same for work that can wait. Pauses grow to 20 s, half of it on average: three minutes where the store refuses
connections at once, five where it is silent."""


def open_uri(uri: str, *, is_patient: bool = False) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URI and the path in it.

    Args:
        uri: a folder or an fsspec URI.
        is_patient: ask an object store that does not answer for some minutes.

    Raises:
        InputError: no installed fsspec file system understands the URI, or it has characters that fsspec reads as a
            pattern or as a chain of file systems.
    """
    # Instances of their own: fsspec's shared ones keep the endpoint and credentials of the first use.
    if "://" not in uri:
        return LocalFileSystem(use_listings_cache=False, skip_instance_cache=True), os.path.abspath(uri)  # noqa: PTH100  (PurePath keeps `..`)
    if "::" in uri:
        raise InputError(f"{uri!r} names several file systems.", hint="Use a folder or one fsspec URI.")
    try:
        options = _options(uri, _PATIENT_REQUESTS if is_patient else _REQUESTS)
        fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False, skip_instance_cache=True, **options)
    except (ValueError, ImportError) as error:
        raise InputError(f"{uri!r} can't be opened: {error}.", hint="Use a folder or an fsspec URI.") from None
    if not isinstance(fs, LocalFileSystem) and (found := sorted(set(root) & set("*?["))):
        raise InputError(f"{uri!r} has {found[0]!r} in it, which fsspec reads as a pattern.", hint="Use another name.")
    return fs, root


def _options(uri: str, num_requests: int) -> dict[str, object]:
    """Return the patience that an object store gets; nothing for other URIs."""
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    from aiobotocore.session import AioSession  # half a second, for those who need it
    from botocore.handlers import add_expect_header

    config: dict[str, object] = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "connector_args": {"socket_factory": _socket},
    }
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        config["retries"] = {"mode": "standard", "total_max_attempts": num_requests}
    session = AioSession()
    session.register_component("data_loader", _service_descriptions(session.get_config_variable("data_path")))
    session.unregister("before-call.s3", add_expect_header)  # aiohttp would wait for ever for the store's "continue"
    return {"config_kwargs": config, "session": session}


@functools.cache
def _service_descriptions(data_path: str | None) -> object:
    """Return botocore's reader of service descriptions, shared: parsing S3's takes each new client 0.1 s."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _socket(address: tuple[int, int, int, str, object]) -> socket.socket:
    """Make a socket with a timeout for sending too; libraries have timeouts for receiving only."""
    made = socket.socket(*address[:3])
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * _READ_TIMEOUT_S))
    return made
