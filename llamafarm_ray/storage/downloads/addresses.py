"""Web addresses as messages and records show them, and the check before a secret is sent to one."""

from __future__ import annotations

import ipaddress
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["has_credentials", "is_loopback", "may_carry_secrets", "origin", "shown", "unsigned_query"]

_SIGNED = frozenset(
    {
        *("signature", "expires", "policy", "key-pair-id", "awsaccesskeyid", "googleaccessid", "response-content-type"),
        *("sig", "se", "st", "sp", "sv", "sr", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv", "sip"),
        *("token", "access_token", "hdnea", "hdnts", "response-content-disposition", "download"),
    }
)
"""Parameters of signed addresses (AWS, CloudFront, Google, Azure, Akamai) and of tokens, in lower case."""
_SIGNED_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-")
_PORTS = {"http": 80, "https": 443}


def shown(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which can hold a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def unsigned_query(url: str) -> str:
    """Return a URL's query without signatures and tokens, which differ from one address of a file to the next.

    Other parameters may hold secrets as well: the result is for digests, not for messages and records.
    """
    kept = [
        (name, value)
        for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True)
        if name.lower() not in _SIGNED and not name.lower().startswith(_SIGNED_PREFIXES)
    ]
    return urlencode(sorted(kept))


def has_credentials(url: str) -> bool:
    """Return whether a URL names a user or password."""
    return "@" in urlsplit(url).netloc


def origin(url: str) -> str:
    """Return a URL's scheme, host and port: ``https://example.org:443``."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def is_loopback(host: str) -> bool:
    """Return whether a host's name means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def may_carry_secrets(url: str) -> bool:
    """Return True if secrets may be sent there: by HTTPS, or to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")
