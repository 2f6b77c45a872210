"""All personal data in a text, each span once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from llamafarm_ray.text.pii.accounts import find_cards, find_ibans
from llamafarm_ray.text.pii.contacts import find_emails, find_ips, find_phones
from llamafarm_ray.text.pii.finding import KINDS, Finding
from llamafarm_ray.text.pii.national import find_national_ids
from llamafarm_ray.text.pii.protected import Protected
from llamafarm_ray.text.pii.secrets import find_secrets

__all__ = ["find_pii", "redact", "redacted"]


def find_pii(text: str, kinds: Collection[str] = KINDS, *, regions: Sequence[str] = ()) -> list[Finding]:
    """Return the personal data in ``text``, by place; no two overlap.

    Args:
        kinds: kinds to look for, of ``KINDS``.
        regions: countries (ISO 3166, "DE") whose phone numbers are recognized without a country prefix.
    """
    protected = Protected(text)
    # Secrets and mail know their own form; what else lies in a GUID, a hash or a date is no personal data. Where two
    # kinds overlap the surer one, which comes first, holds.
    found: list[Finding] = [*_of(kinds, "secret", find_secrets(text)), *_of(kinds, "email", find_emails(text))]
    numbers = [
        *_of(kinds, "iban", find_ibans(text)),
        *_of(kinds, "card", find_cards(text)),
        *_of(kinds, "ip", find_ips(text)),
        *_of(kinds, "national_id", find_national_ids(text)),
        *(_of(kinds, "phone", find_phones(text, regions))),
    ]
    found += [finding for finding in numbers if not protected.covers(finding.start, finding.end)]
    chosen: list[Finding] = []
    for finding in found:
        if not any(finding.start < other.end and other.start < finding.end for other in chosen):
            chosen.append(finding)
    return sorted(chosen, key=lambda finding: finding.start)


def _of(kinds: Collection[str], kind: str, findings: Iterable[Finding]) -> Iterable[Finding]:
    return findings if kind in kinds else ()


def redacted(text: str) -> str:
    """Return ``text`` with the personal data of every kind replaced by its kind."""
    return redact(text, find_pii(text))


def redact(text: str, findings: Iterable[Finding]) -> str:
    """Return ``text`` with each finding replaced by its kind, as in ``[EMAIL]``."""
    parts, place = [], 0
    for finding in findings:
        parts += [text[place : finding.start], f"[{finding.kind.upper()}]"]
        place = finding.end
    return "".join([*parts, text[place:]])
