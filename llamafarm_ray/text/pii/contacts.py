"""E-mail addresses, phone numbers and IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

import phonenumbers

from llamafarm_ray.text.pii.finding import Finding, stands_alone

__all__ = ["find_emails", "find_ips", "find_phones"]

_EMAIL = re.compile(
    r"(?<![\w.+%/=-])(?P<local>[\w.!#$%&'*+/=?^`{|}~-]{1,64})@(?P<host>(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24})"
    r"(?![\w@])(?!:[\w/~.])"
)
# What follows the @ of a systemd unit or a file name, and the user of an ssh address, are no one's mail.
_NO_DOMAINS = frozenset(
    ("service", "socket", "timer", "target", "mount", "slice", "path", "png", "jpg", "jpeg", "gif", "svg", "js", "css")
)
_NO_USERS = frozenset(("git", "hg", "svn"))
_INTERNATIONAL = re.compile(r"(?<![\w+])(?:\+|00)\s?\(?[1-9]")
_ENOUGH_DIGITS = re.compile(r"(?:\d[ ()./-]{0,2}){7}")
_IPV4 = re.compile(r"(?<![\w.-])(?<![^/\s]/)(?<!\d:)(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d|-\w|/\d)(?!\s*[x*])", re.ASCII)
_IPV6 = re.compile(
    r"(?<![\w.:/-])(?=[0-9a-fA-F:]*[0-9])[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:]|/\d)", re.ASCII
)
_VERSION_BEFORE = re.compile(r"(?i)(?:\bv\.?|version|release|firmware|build|driver|upgraded? to|section)\s*$")
_ADDRESS_WORDS = re.compile(r"(?i)\b(?:ip|ipv4|address|addr|host|server|from|at|to|client|peer|dns|gateway|ping)\b")
_CONTEXT_CHARS = 24
_DOCUMENTATION = tuple(
    ipaddress.ip_network(network) for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)


def find_emails(text: str) -> Iterator[Finding]:
    """Yield e-mail addresses (RFC 5322's usual form), not ``git@host:path`` and not ``getty@tty1.service``."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        suffix = match["host"].rpartition(".")[2].lower()
        start = match.start() + len(match["local"]) - len(match["local"].lstrip(".'`*{|"))
        if suffix not in _NO_DOMAINS and match["local"].lower() not in _NO_USERS and start < match.end("local"):
            yield Finding("email", start, match.end())


def find_phones(text: str, regions: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield valid phone numbers with a country prefix, and national ones of ``regions`` (ISO 3166, e.g. "US")."""
    if not _INTERNATIONAL.search(text) and not (regions and _ENOUGH_DIGITS.search(text)):
        return
    for region in (None, *regions):
        leniency = phonenumbers.Leniency.STRICT_GROUPING if region else phonenumbers.Leniency.VALID
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency):
            has_prefix = match.raw_string.lstrip("( ").startswith(("+", "00"))
            if (region or has_prefix) and stands_alone(text, match.start, match.end):
                yield Finding("phone", match.start, match.end)


def find_ips(text: str) -> Iterator[Finding]:
    """Yield public IP addresses and those for documentation.

    Private, loopback and other special addresses are the same in every network and point at nobody; a network
    ("10.0.0.0/8") is no address, and neither is "version 1.2.3.4".
    """
    for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        points = (address.is_global and not address.is_multicast) or any(
            address.version == network.version and address in network for network in _DOCUMENTATION
        )
        if points and not (address.version == 4 and _is_version(text, match.start(), match[0])):
            yield Finding("ip", match.start(), match.end())


def _is_version(text: str, start: int, number: str) -> bool:
    """Return True if four numbers with dots are a version: after such a word, or all small without a word for hosts."""
    before = text[max(0, start - _CONTEXT_CHARS) : start]
    if _VERSION_BEFORE.search(before):
        return True
    is_small = all(int(part) < 20 for part in number.split("."))
    return is_small and not _ADDRESS_WORDS.search(before)
