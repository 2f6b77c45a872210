"""Documents behind URIs, by fsspec: buckets, other file systems, and pages of the web."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from llamafarm_ray.data.readers import is_supported
from llamafarm_ray.data.readers.base import oversized_message
from llamafarm_ray.data.sources.containers import is_container
from llamafarm_ray.data.sources.found import SkippedDocument, SourceFile, Sources, file_type, plain_path
from llamafarm_ray.data.sources.wanted import Wanted
from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.opening import open_uri

__all__ = ["find_remote", "is_page", "open_remote", "page_name"]

_MAGIC = re.compile(r"[*?\[]")
_TIMEOUT_S = 60


def is_page(uri: str) -> bool:
    """Return True for a page of the web, which is read as it is and whose links are not followed."""
    return uri.startswith(("http://", "https://"))


def page_name(uri: str) -> str:
    """Return the name of the file behind a web address: its extension, if it is known, says the type, else HTML."""
    name = PurePosixPath(unquote(urlsplit(uri).path)).name
    known = "." in name and (is_supported(name) or is_container(name))
    return name if known else f"{name or 'index'}.html"


def find_remote(uri: str, wanted: Wanted) -> Sources:
    """Find the wanted files behind a URI: a folder or bucket, a pattern, or a single file.

    Raises:
        InputError: nothing is there, or it can't be reached.
    """
    if is_page(uri):
        return _page(uri)
    prefix = uri
    magic = _MAGIC.search(uri)
    if magic:
        prefix = uri[: uri.rfind("/", 0, magic.start()) + 1]
    try:
        fs, root = open_uri(prefix)
        if magic:
            pattern = f"{root.rstrip('/')}/{uri[len(prefix) :]}"
            entries = {path: info for path, info in fs.glob(pattern, detail=True).items() if info["type"] == "file"}
        else:
            entries = fs.find(root, detail=True) if fs.exists(root) else {}
    except InputError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"The source {uri!r} can't be listed ({type(error).__name__}: {error}).") from error
    if not entries:
        what = "No file matches the source" if magic else "There is nothing at the source"
        raise InputError(f"{what} {uri!r}.", hint="Check the address, and the credentials for it.")
    single = not magic and list(entries) == [root]
    found = Sources(name="" if single else PurePosixPath(root).name)
    base = str(PurePosixPath(root).parent) if single else root
    for path, info in sorted(entries.items()):
        _add(found, fs, path, path.removeprefix(base).lstrip("/"), num_bytes=info.get("size"), wanted=wanted)
    return found


def _add(
    found: Sources, fs: AbstractFileSystem, path: str, name: str, *, num_bytes: int | None, wanted: Wanted
) -> None:
    if any(part.startswith(wanted.hidden) for part in name.split("/")):
        return
    if not wanted.takes(name):
        found.ignored[file_type(name)] += 1
        return
    limit = wanted.max_bytes(PurePosixPath(name).name)
    if num_bytes is not None and limit is not None and num_bytes > limit:
        found.skipped.append(SkippedDocument(plain_path(name), oversized_message(num_bytes, limit)))
    else:
        found.files.append(SourceFile(plain_path(name), fs.unstrip_protocol(path).encode()))


def _page(uri: str) -> Sources:
    try:
        with open_remote(uri) as file:
            file.read(1)
    except Exception as error:  # each file system has errors of its own
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read ({error})"
        raise InputError(f"The source {uri!r} {reason}.", hint="Check the address.") from error
    return Sources(files=[SourceFile(uri, uri.encode())])


def open_remote(uri: str) -> AbstractBufferedFile:
    """Open the file at a URI to read its bytes."""
    if is_page(uri):
        return fsspec.filesystem("http", client_kwargs={"timeout": _timeout()}).open(uri, "rb")
    fs, path = open_uri(uri)
    return fs.open(path, "rb")


def _timeout() -> object:
    from aiohttp import ClientTimeout  # comes with fsspec's HTTP

    return ClientTimeout(total=_TIMEOUT_S)
