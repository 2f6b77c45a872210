"""Payment cards and bank accounts: numbers with a checksum and an issuer."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from stdnum import iban, numdb

from llamafarm_ray.text.pii.finding import Finding, has_context, stands_alone

__all__ = ["find_cards", "find_ibans"]

_CARD = re.compile(
    r"(?<!\d)\d{4}([ -]?)\d{4,6}\1\d{4,5}(?:\1\d{1,4})?(?:\1\d{3})?(?!\d)|(?<!\d)\d{13,19}(?!\d)", re.ASCII
)
_CARD_GROUPS = frozenset({(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 1)})
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d{2})\d{12}"  # Discover
    r"|3(?:0[0-5]\d|095|6\d{2}|[89]\d{2})\d{10}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|62\d{14,17}"  # UnionPay
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{12}",  # Maestro
    re.ASCII,
)
_USUAL_LENGTHS = (15, 16)
_CARD_WORDS = re.compile(r"(?i)\b(?:card|visa|mastercard|amex|credit|debit|karte|carte|tarjeta|cart\u00e3o)\b")
_OTHER_NUMBER = re.compile(
    r"(?i)\b(?:order|invoice|tracking|serial|ticket|shipment|batch|part|build|sku|ean|gtin|upc|imei|article|case|"
    r"trace|span|request|snowflake|user|event)(?:[ _-]?(?:id|no\.?|number|nr\.?|code))?\s*[:=#]?\s*$"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.ASCII)


def find_cards(text: str) -> Iterator[Finding]:
    """Yield card numbers: an issuer's range and length, the usual groups, and a right Luhn digit (ISO/IEC 7812)."""
    for match in _CARD.finditer(text):
        start, end = match.span()
        groups = re.split(r"[ -]", match[0])
        number = "".join(groups)
        if len(groups) > 1 and tuple(map(len, groups)) not in _CARD_GROUPS:
            continue
        if not _ISSUERS.fullmatch(number) or not _luhn(number) or not stands_alone(text, start, end):
            continue
        if has_context(text, start, _OTHER_NUMBER):
            continue
        # Codes of other lengths are often something else: EAN-13 and 19-digit ids pass Luhn one time in ten.
        if len(groups) > 1 or len(number) in _USUAL_LENGTHS or has_context(text, start, _CARD_WORDS):
            yield Finding("card", start, end)


def _luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    return not (sum(values[::2]) + sum(sum(divmod(2 * value, 10)) for value in values[1::2])) % 10


def find_ibans(text: str) -> Iterator[Finding]:
    """Yield IBANs: a country's length and structure, and right check digits (ISO 13616)."""
    for match in _IBAN.finditer(text):
        length = _iban_lengths().get(match[0][:2])
        end = _end_of(match[0], length) if length else None
        if end is not None and stands_alone(text, match.start(), match.start() + end) and _is_iban(match[0][:end]):
            yield Finding("iban", match.start(), match.start() + end)


def _end_of(candidate: str, length: int) -> int | None:
    """Return the index behind the ``length``-th character that is no space; None if there are fewer."""
    ends = [at + 1 for at, character in enumerate(candidate) if character != " "]
    return ends[length - 1] if len(ends) >= length else None


def _is_iban(candidate: str) -> bool:
    return iban.is_valid(candidate, check_country=False)


@functools.cache
def _iban_lengths() -> dict[str, int]:
    """Return the number of characters of an IBAN by country, from python-stdnum's copy of the registry."""
    found = {}
    database = numdb.get("iban")
    for first in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            structure = database.info(f"{first}{second}00")[0][1].get("bban")
            if structure:
                found[first + second] = 4 + sum(map(int, re.findall(r"(\d+)!", structure)))
    return found
