"""Parse a user's spelling of a source: a hub's name, a URL, a reference, a path."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.downloads.addresses import has_credentials, is_loopback, origin, shown
from llamafarm_ray.storage.downloads.providers.folder import WebSource
from llamafarm_ray.storage.downloads.providers.hub import HubSource, hub_endpoint
from llamafarm_ray.storage.downloads.providers.local import LocalSource
from llamafarm_ray.storage.downloads.providers.oci import OciSource
from llamafarm_ray.storage.downloads.providers.source import Source
from llamafarm_ray.storage.downloads.providers.spelling import HUB_ID, SCHEME
from llamafarm_ray.storage.downloads.providers.store import StoreSource

__all__ = ["parse_source"]

_HUB_PAGE = re.compile(r"/([\w.-]+/[\w.-]+)(?:/tree/([^/]+))?/?", re.ASCII)
_FORMS = "owner/name on the hub, https://, s3://, gs://, oci://host/repository:tag, a folder, a GGUF file or an archive"


def parse_source(text: str, revision: str = "") -> Source:
    """Return the source that a text names.

    Args:
        text: ``owner/name``, ``hf://owner/name@revision``, an https:// URL, any fsspec URI, ``oci://host/name:tag``, or
            a path.
        revision: a branch, tag or commit of a hub; a tag or digest of a registry.

    Raises:
        InputError: the text names no source, or a revision of a source without revisions.
    """
    made = _parse(text.strip(), revision.strip())
    if revision and made.revision != revision.strip():
        raise InputError(f"{made.address} has no revisions.", hint="Leave --revision out.")
    return made


def _parse(text: str, revision: str) -> Source:
    if match := SCHEME.match(text):
        return _of_scheme(match[1].lower(), text, revision)
    path = Path(text).expanduser()
    if path.exists():
        return LocalSource(path)
    if HUB_ID.fullmatch(text.partition("@")[0]):
        return _hub(text, revision)
    raise InputError(f"{text[:200]!r} is no folder or file here, and no address of a model.", hint=f"Give {_FORMS}.")


def _of_scheme(scheme: str, text: str, revision: str) -> Source:
    if scheme in {"hf", "huggingface"}:
        return _hub(text.partition("://")[2], revision)
    if scheme == "oci":
        return OciSource(text, revision)
    if scheme in {"http", "https"}:
        return _web(text, revision)
    if scheme == "file":
        return LocalSource(Path(urlsplit(text).path))
    if has_credentials(text):
        raise InputError(f"The address {shown(text)} has a user or password in it.", hint="Use the environment.")
    return StoreSource(text)


def _hub(text: str, revision: str) -> HubSource:
    name, _, own = text.partition("@")
    if not HUB_ID.fullmatch(name):
        raise InputError(f"{name[:200]!r} is no name of a model on a hub.", hint="Write owner/name.")
    return HubSource(name, revision or own)


def _web(url: str, revision: str) -> Source:
    parts = urlsplit(url)
    page = _HUB_PAGE.fullmatch(parts.path) if origin(url) == origin(hub_endpoint()) else None
    if page and not has_credentials(url):
        return HubSource(page[1], revision or page[2] or "")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise InputError(
            f"{shown(url)} is not encrypted: what comes from there can be anybody's.", hint="Use https://."
        )
    return WebSource(url)
