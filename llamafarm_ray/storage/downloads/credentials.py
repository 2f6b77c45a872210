"""Tokens and passwords for downloads, from the environment and netrc. They are never shown.

A secret belongs to one origin (scheme, host and port). A redirect to another one is followed without it.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.downloads.addresses import may_carry_secrets, origin

__all__ = ["Credentials", "bearer_variable", "docker_login", "hub_token"]

_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class Credentials:
    """The ``Authorization`` header of each origin.

    Args:
        environment: variables with tokens, ``os.environ`` by default.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._headers: dict[str, str] = {}

    def bearer(self, url: str, token: str | None) -> None:
        """Send a token to a URL's origin from now on; nothing where there is no token."""
        if token:
            self._headers[origin(url)] = f"Bearer {token}"

    def basic(self, url: str, user: str, password: str) -> None:
        """Send a user and a password to a URL's origin from now on."""
        self._headers[origin(url)] = basic(user, password)

    def trust(self, url: str) -> None:
        """Send a URL's origin the credentials that the environment or netrc has for its host.

        Raises:
            InputError: netrc can't be read.
        """
        host = urlsplit(url).hostname or ""
        if token := self._environment.get(bearer_variable(host)):
            self.bearer(url, token)
        elif origin(url) not in self._headers and (login := _netrc_login(host, self._environment)):
            self._headers[origin(url)] = basic(*login)

    def header(self, url: str) -> dict[str, str]:
        """Return the header that a request to a URL carries; none for other origins and over plain HTTP."""
        value = self._headers.get(origin(url))
        return {"Authorization": value} if value and may_carry_secrets(url) else {}

    def has(self, url: str) -> bool:
        """Return whether requests to a URL carry a secret."""
        return bool(self.header(url))

    def __repr__(self) -> str:
        return f"Credentials(for {len(self._headers)} origins)"


def bearer_variable(host: str) -> str:
    """Return the environment variable with a host's bearer token: ``LLAMAFARM_BEARER_models_example_org``."""
    return f"LLAMAFARM_BEARER_{re.sub(r'[^A-Za-z0-9]', '_', host)}"


def basic(user: str, password: str) -> str:
    """Return the header of HTTP's basic scheme (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def hub_token() -> str | None:
    """Return the Hugging Face token: from the environment, else what `hf auth login` wrote."""
    for name in _HUB_TOKENS:
        if token := os.environ.get(name, "").strip():
            return token
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    try:
        return Path(os.environ.get("HF_TOKEN_PATH", home / "token")).expanduser().read_text("utf-8").strip() or None
    except OSError:
        return None


def docker_login(registry: str) -> tuple[str, str] | None:
    """Return the user and password that `docker login` or `oras login` stored for a registry."""
    folder = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()
    try:
        stored = json.loads((folder / "config.json").read_text("utf-8"))["auths"][registry]["auth"]
        user, found, password = base64.b64decode(stored).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (user, password) if found else None


def _netrc_login(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    path = Path(environment.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return None
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):  # whose message may quote a password
        raise InputError(f"{path} can't be read as netrc.", hint="Correct it, or set NETRC to another file.") from None
    return (found[0], found[2]) if found else None
