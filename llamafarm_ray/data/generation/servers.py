"""The address of a server that a section of the configuration or the environment names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Server", "server_url"]

_OFFICIAL_URL = "https://api.openai.com/v1"


class Server(Protocol):
    """A section of the configuration that names a server."""

    @property
    def base_url(self) -> str | None:
        """Address up to ``/v1``; None if it is not set."""

    @property
    def api_key_env(self) -> str:
        """Name of the environment variable that holds the key."""


def server_url(server: Server, section: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the server's address and the name of the setting that it comes from; both empty if there is none.

    Args:
        environment: environment variables: ``OPENAI_BASE_URL``, and the key, which means OpenAI's own server.
    """
    if server.base_url:
        return server.base_url, f"{section}.base_url"
    if environment.get("OPENAI_BASE_URL"):
        return environment["OPENAI_BASE_URL"], "OPENAI_BASE_URL"
    if environment.get(server.api_key_env):
        return _OFFICIAL_URL, server.api_key_env
    return "", ""
