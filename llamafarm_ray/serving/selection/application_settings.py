"""The settings that an application leaves with Serve, as plain values in its ``user_config``.

Other applications read them while none of its replicas runs.
"""

from __future__ import annotations

from typing import Final, TypedDict

__all__ = ["SETTINGS_KEY", "ApplicationSettings"]

SETTINGS_KEY: Final = "llamafarm"
"""The key of the settings in ``user_config``; an application without it is not ours."""


class ApplicationSettings(TypedDict):
    """Settings of an application.

    Attributes:
        home: URI of the registry's home that it serves from.
        require_key: True if its requests need a key; ``None``: once the registry has principals.
        allowed_hosts: names in the public DNS that requests without a key may call it by.
        allowed_origins: origins whose web pages may read its answers.
        max_requests: most requests that wait for a first replica.
        timeout_s: seconds that each of them waits.
    """

    home: str
    base_name: str
    base_digest: str
    require_key: bool | None
    allowed_hosts: list[str]
    allowed_origins: list[str]
    max_body_bytes: int
    max_requests: int
    timeout_s: float
