"""Personal data is found where its form or checksum says so, and nowhere in technical text."""

import random

import pytest
from quality_texts import technical_lines

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.quality.pii import HandlePii
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.text.pii.find import find_pii, redact
from llamafarm_ray.text.pii.finding import KINDS
from llamafarm_ray.types import Digest

CARRIERS = (
    "Please use {} for it.",
    "It is {}.",
    "({})",
    "The old entry was {}, which nobody knew.",
    "customer: {}; since 2019",
    "{}",
)
CARDS = """
4111 1111 1111 1111|4111111111111111|5500-0000-0000-0004|2221 0000 0000 0009|378282246310005
3782 822463 10005|6011111111111117|3530 1113 3330 0000|6200000000000005|credit card 30569309025904
4012 8888 8888 1881|5105105105105100
"""
IBANS = """
DE89 3704 0044 0532 0130 00|GB29NWBK60161331926819|FR14 2004 1010 0505 0001 3M02 606
NL91ABNA0417164300|CH93 0076 2011 6238 5295 7|ES9121000418450200051332|IT60X0542811101000000123456
BE68 5390 0754 7034|AT611904300234573201|SE45 5000 0000 0583 9825 7466|PL61109010140000071219812874
NO9386011117947
"""
NATIONAL = """
536-90-4399|SSN 536904399|social security number 536 90 4399|123-456-782|SIN: 123 456 782
BOXW310820HNERXN09|390.533.447-05|CPF 39053344705|20-05536168-2|12.531.909-2|NHS number 943 476 5870
6433435F|2 95 10 99 126 111 93|295109912611193|54362315K|X2482300W|RCCMNL83S18D969H|756.9217.0769.85
BSN 111222333|880320-0016|15108695088|131052-308T|Steuer-ID 36574261809|36 574 261 809
85.07.30-033.28|1237 010180|710319/2745|1630615123457|PESEL 44051401359|161175-19997|OIB 33392005961
17291716060|7503305044089|2341 2341 2346|360426199101010071|971013-9019902|770305-02-1234
34201-0891231-8
"""
CONTACTS = {
    "email": "jane.doe@example.com|j+news@mail.example.co.uk|o'brien@example.org|JANE@EXAMPLE.COM|müller@beispiel.de",
    "phone": "+49 30 1234567|+1 212-555-0123|+44 20 7946 0958|+33 1 42 68 53 00|+1 (212) 555-0123",
    "ip": "203.0.113.7|81.2.69.142|http://81.2.69.142/a|ip:81.2.69.142|2001:db8::8a2e:370:7334|2606:4700:4700::1111",
    "secret": "AKIAIOSFODNN7EXAMPLE|ghp_"
    + "a1B2" * 9
    + "|password is hunter2|the password of the town's catalog is hunter2|password: correctHorse9|pwd=S3cr3t!|"
    "The admin password is 'blueberry'|Passwort lautet Sommer2024!|sk-ant-api03-" + "Zx9_" * 8 + "|"
    "postgres://app:Tr0ub4dor@db/prod|api_key = 9f8a7b6c5d4e3f2a1b0c9d8e|hf_" + "aB3" * 11,
}


def planted(text):
    items = [item.strip() for line in text.strip().splitlines() for item in line.split("|")]
    return [(item, carrier.format(item)) for item in items for carrier in CARRIERS]


@pytest.mark.parametrize(("kind", "text"), [("card", CARDS), ("iban", IBANS), ("national_id", NATIONAL)])
def test_checksummed_kinds_are_found(kind, text):
    cases = planted(text)
    missed = [line for _, line in cases if [finding.kind for finding in find_pii(line)] != [kind]]
    assert missed == []


@pytest.mark.parametrize("kind", CONTACTS)
def test_contacts_and_secrets_are_found(kind):
    missed = [line for _, line in planted(CONTACTS[kind]) if {finding.kind for finding in find_pii(line)} != {kind}]
    assert missed == []


def test_clean_technical_text_has_none():
    lines = technical_lines()
    assert len(lines) == 200
    found = [(line, [(f.kind, line[f.start : f.end]) for f in find_pii(line)]) for line in lines]
    wrong = [case for case in found if case[1]]
    assert len(wrong) < 0.01 * len(lines), wrong


@pytest.mark.parametrize("kind", ["card", "iban", "national_id"])
def test_a_wrong_check_digit_is_no_finding(kind):
    wrong = {
        "card": ["4111 1111 1111 1112", "378282246310006"],
        "iban": ["DE88 3704 0044 0532 0130 00", "GB29NWBK60161331926818"],
        "national_id": ["000-12-3456", "54362315L", "756.9217.0769.86", "880320-0017", "RCCMNL83S18D969I"],
    }
    assert [line for line in wrong[kind] if find_pii(line)] == []


def test_nothing_is_found_inside_codes():
    card, source = "4111111111111111", random.Random(3)
    for line in (
        f"id 12345678-1234-1234-1234-{card[:12]}",
        f"sha256:{card}{source.getrandbits(192):048x}",
        f"https://example.org/items/{card}/view",
        f"file_{card}.bin",
        "see releases/81.2.69.142/notes",
        "ISBN 7569217076985",
        f"0x{card}",
        "blob a94a8fe5ccb19ba61c4c0873d391e987982fbbd3",
    ):
        assert find_pii(line) == [], line


def test_bare_digits_need_their_name():
    assert find_pii("111222333") == []
    assert [finding.kind for finding in find_pii("her BSN is 111222333")] == ["national_id"]


def test_national_phone_numbers_need_a_region():
    assert find_pii("Call (212) 555-0123 today.", ["phone"]) == []
    assert [f.kind for f in find_pii("Call (212) 555-0123 today.", ["phone"], regions=["US"])] == ["phone"]


def test_only_the_kinds_asked_for_are_looked_for():
    text = "jane@example.com paid with 4111 1111 1111 1111"
    assert [finding.kind for finding in find_pii(text)] == ["email", "card"]
    assert [finding.kind for finding in find_pii(text, ["card"])] == ["card"]
    assert set(KINDS) >= {"email", "card"}


def test_redaction_names_the_kind_and_touches_nothing_else():
    text = "Write to jane@example.com, or call +49 30 1234567. The password is hunter2."
    assert redact(text, find_pii(text)) == "Write to [EMAIL], or call [PHONE]. The password is [SECRET]."


def passage(text):
    return Passage("a.md", Digest.of(b""), "Mail jane@example.com", ("Card 4111 1111 1111 1111",), text, 0)


def run(step, rows):
    ledger = Ledger()
    return list(step.run(rows, ledger)), ledger.to_dict()["pii"]


def test_redacting_covers_title_and_headings_and_counts():
    (row,), counts = run(HandlePii("redact", ["card"]), [passage("Pay with 5500-0000-0000-0004.")])
    assert (row.text, row.title, row.headings) == ("Pay with [CARD].", "Mail jane@example.com", ("Card [CARD]",))
    assert counts["noted"] == {"card redacted": 2, "email kept": 1}
    assert counts["samples"]["card redacted"] == ["Pay with [CARD]."]


def test_dropping_names_the_kinds_and_shows_no_personal_data():
    rows, counts = run(HandlePii("drop", ["secret", "card"]), [passage("The password is hunter2.")])
    assert rows == []
    reason = "has personal data: card, secret"
    assert counts["dropped"] == {reason: 1}
    assert counts["samples"] == {reason: ["The password is [SECRET]."]}


def test_tagging_names_the_kinds_in_the_passage():
    (row,), counts = run(HandlePii("tag", ["card", "secret", "ip"]), [passage("The password is hunter2.")])
    assert row.pii == ("card", "secret")
    assert row.text == "The password is hunter2."
    assert Passage.from_json(row.to_json()) == row
    assert counts["noted"] == {"card tagged": 1, "email kept": 1, "secret tagged": 1}


def test_keeping_changes_nothing_and_counts():
    before = passage("The password is hunter2.")
    rows, counts = run(HandlePii("keep", KINDS), [before])
    assert rows == [before]
    assert counts["noted"] == {"card kept": 1, "email kept": 1, "secret kept": 1}
    assert "hunter2" not in str(counts["samples"])
