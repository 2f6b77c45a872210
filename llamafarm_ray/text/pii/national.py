"""National identity, social security and tax numbers of persons, checked by python-stdnum."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llamafarm_ray.text.pii.finding import Finding, has_context, stands_alone

__all__ = ["find_national_ids"]

_TOKEN = re.compile(r"[A-Za-z0-9]+(?:[-./+][A-Za-z0-9]+)*", re.ASCII)
_ENOUGH_DIGITS = re.compile(r"(?:\d[^\d\n]{0,2}){4}")
_OTHER_NUMBER = re.compile(r"(?i)\b(?:order|invoice|tracking|serial|ticket|part|build|batch)\b[^.;]{0,12}$")
_MAX_TOKENS = 7


@dataclass(frozen=True, slots=True)
class _Number:
    """A kind of number.

    Args:
        module: the module of ``stdnum`` that checks it.
        written: shapes in which it is recognized alone, 9 for a digit and A for a capital letter.
        bare: shapes in which it needs one of ``words`` before it, as other numbers look the same.
        words: names that people use for it.
    """

    module: str
    written: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    words: str = ""


_11 = ("99999999999",)
_TAX = r"tax|tin"
_NUMBERS = (
    _Number("us.ssn", ("999-99-9999",), ("999999999", "999 99 9999"), r"ssn|social security"),
    _Number("us.itin", ("999-99-9999",), ("999999999",), r"itin|taxpayer"),
    _Number("ca.sin", ("999-999-999",), ("999999999", "999 999 999"), r"sin|social insurance|nas"),
    _Number("mx.curp", ("AAAA999999AAAAAA99", "AAAA999999AAAAAAA9")),
    _Number("br.cpf", ("999.999.999-99",), _11, r"cpf"),
    _Number("ar.cuit", ("99-99999999-9",), _11, r"cui[tl]"),
    _Number("cl.rut", ("99.999.999-9", "9.999.999-9", "99.999.999-A"), ("99999999-9", "99999999-A"), r"ru[tn]"),
    _Number("do.cedula", ("999-9999999-9",), _11, r"c[e\u00e9]dula"),
    _Number("gb.nhs", (), ("999 999 9999", "999-999-9999", "9999999999"), r"nhs"),
    _Number("ie.pps", ("9999999A", "9999999AA")),
    _Number("fr.nir", ("9 99 99 99 999 999 99", "9 99 99 99 999 999", "999999999999999"), (), ""),
    _Number("es.dni", ("99999999A", "99999999-A")),
    _Number("es.nie", ("A9999999A", "A-9999999-A", "A9999999-A")),
    _Number("it.codicefiscale", ("AAAAAA99A99A999A",)),
    _Number("pt.cc", ("99999999 9 AA9", "999999999AA9")),
    _Number("pt.nif", (), ("999999999", "999 999 999"), r"nif|contribuinte"),
    _Number("de.idnr", ("99 999 999 999",), _11, r"steuer\S*|idnr|identifikationsnummer|" + _TAX),
    _Number("at.vnr", ("9999 999999",), ("9999999999",), r"svnr|sozialversicherungs\S*|versicherungsnummer"),
    _Number("ch.ssn", ("999.9999.9999.99", "9999999999999")),
    _Number("be.nn", ("99.99.99-999.99", "99.99.99-999 99"), (*_11, "99 99 99 999 99"), r"nationa\w*|rijksregister\w*"),
    _Number("nl.bsn", (), ("999999999", "9999.99.999"), r"bsn|burgerservicenummer|sofinummer"),
    _Number("se.personnummer", ("999999-9999", "99999999-9999"), ("9999999999", "999999999999"), r"person\w*"),
    _Number("no.fodselsnummer", ("999999 99999", *_11)),
    _Number("fi.hetu", ("999999-999A", "999999A999A", "999999-9999")),
    _Number("dk.cpr", (), ("999999-9999", "9999999999"), r"cpr|personnummer"),
    _Number("ee.ik", (), _11, r"isikukood|personal (?:identification )?code"),
    _Number("lt.asmens", (), _11, r"asmens kodas|personal (?:identification )?code"),
    _Number("lv.pvn", ("999999-99999",)),
    _Number("pl.pesel", (), _11, r"pesel"),
    _Number("cz.rc", ("999999/9999", "999999/999"), ("9999999999",), r"rodn\S+ \S+"),
    _Number("ro.cnp", ("9999999999999",)),
    _Number("bg.egn", (), ("9999999999",), r"egn|\u0435\u0433\u043d"),
    _Number("hr.oib", (), _11, r"oib"),
    _Number("gr.amka", (), _11, r"amka|\u03b1\u03bc\u03ba\u03b1"),
    _Number("tr.tckimlik", _11),
    _Number("il.idnr", (), ("999999999", "9999999-9", "99999999-9"), r"teudat\S*|israeli? id"),
    _Number("za.idnr", ("9999999999999", "999999 9999 999")),
    _Number("in_.aadhaar", ("9999 9999 9999",), ("999999999999", "9999-9999-9999"), r"aadhaar"),
    _Number("in_.pan", (), ("AAAAA9999A",), r"pan|permanent account"),
    _Number("cn.ric", ("999999999999999999", "99999999999999999A")),
    _Number("jp.in_", (), ("9999 9999 9999", "999999999999", "9999-9999-9999"), r"my ?number"),
    _Number("kr.rrn", ("999999-9999999",)),
    _Number("th.pin", ("9-9999-99999-99-9",), ("9999999999999",), r"thai|citizen"),
    _Number("my.nric", ("999999-99-9999",), ("999999999999",), r"nric|mykad"),
    _Number("id.nik", (), ("9999999999999999",), r"nik|ktp"),
    _Number("pk.cnic", ("99999-9999999-9",), ("9999999999999",), r"cnic"),
    _Number("au.tfn", (), ("999 999 999", "999999999"), r"tfn|tax file"),
    _Number("ru.inn", (), ("999999999999",), r"inn|\u0438\u043d\u043d"),
)


def find_national_ids(text: str) -> Iterator[Finding]:
    """Yield numbers of a country's shape with a right checksum (or, without one, in a range that was given out).

    A shape that many other numbers have is recognized behind its name only ("BSN 111222333").
    """
    if not _ENOUGH_DIGITS.search(text):
        return
    tokens = list(_TOKEN.finditer(text))
    index = 0
    while index < len(tokens):
        found = _longest(text, tokens, index)
        if found is None:
            index += 1
        else:
            yield Finding("national_id", tokens[index].start(), tokens[index + found - 1].end())
            index += found


def _longest(text: str, tokens: list[re.Match[str]], index: int) -> int | None:
    """Return of how many tokens the longest number is that begins at ``index``."""
    best = None
    shape = ""
    for count in range(1, min(_MAX_TOKENS, len(tokens) - index) + 1):
        last = tokens[index + count - 1]
        if count > 1:
            if text[tokens[index + count - 2].end() : last.start()] != " ":
                break
            shape += " "
        shape += _shape(last[0])
        start, end = tokens[index].start(), last.end()
        for number, needs_words in _by_shape().get(shape, ()):
            if _is_number(text, start, end, number, needs_words=needs_words):
                best = count
    return best


def _is_number(text: str, start: int, end: int, number: _Number, *, needs_words: bool) -> bool:
    if needs_words:
        if not has_context(text, start, _words(number.words)):
            return False
    elif text[start:end] != text[start:end].upper() or has_context(text, start, _OTHER_NUMBER):
        return False
    if re.search(r"\d $", text[:start][-2:]) or re.match(r" \d", text[end : end + 2]):
        return False  # one of more groups of digits
    is_valid, written = _validator(number.module), text[start:end]
    return stands_alone(text, start, end) and (is_valid(written) or is_valid(written.replace(" ", "")))


def _shape(token: str) -> str:
    return re.sub("[A-Za-z]", "A", re.sub("[0-9]", "9", token))


@functools.cache
def _words(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?i)(?<![^\W_])(?:{words})(?![^\W_])")


@functools.cache
def _by_shape() -> dict[str, list[tuple[_Number, bool]]]:
    """Return the kinds of number by shape, each with whether it needs a word before it."""
    found: dict[str, list[tuple[_Number, bool]]] = {}
    for number in _NUMBERS:
        for shape in number.written:
            found.setdefault(shape, []).append((number, False))
        for shape in number.bare:
            found.setdefault(shape, []).append((number, True))
    return found


@functools.cache
def _validator(module: str) -> Callable[[str], bool]:
    is_valid: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return is_valid
