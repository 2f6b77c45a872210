"""The table of statements that become questions, tried from top to bottom; the first that fits is taken.

::

    subject         verb    what follows            question
    The library     opens   at 08:00.               When does the library open?          Regime.DO
    The ladder      is      kept in the shed.       Where is the ladder kept?            Regime.BE
    Visitors        must    wear a badge.           What must visitors do?               Regime.BE
    Maria Lopez     leads   the team.               Who leads the team?                  Regime.PLAIN

``follows`` is an expression with named groups, ``ask`` puts some of them back into the question. The part that the
question asks for is not put back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from llamafarm_ray.data.generation.rules.english import (
    ADVERBS,
    COLOURS,
    GROUP_NOUNS,
    NO_DEFINITION,
    PREPOSITIONS,
    ROLE_NOUNS,
)
from llamafarm_ray.data.generation.rules.expressions import (
    DATE,
    DAYS,
    MONEY,
    NUMBER,
    OFTEN,
    PLACE,
    PLACE_STRICT,
    SPAN,
    TIME,
    any_of,
)
from llamafarm_ray.data.generation.rules.grammar import Verb, participle, verb_forms

__all__ = ["AGENT_PARTICIPLES", "PATTERNS", "Pattern", "Regime", "Who"]


class Regime(Enum):
    """Construction of a question from its parts; {ask} is the pattern's ``ask``."""

    DO = auto()  # {wh} does {subject} {base form}{ask}
    BE = auto()  # {wh} {verb} {subject}{ask}
    PLAIN = auto()  # {wh}{ask}: the subject is what is asked for, or stands in ``ask``


class Who(Enum):
    """Subjects that a pattern takes."""

    ANY = auto()
    THING = auto()  # no person
    AGENT = auto()  # a person, a group, or a name
    PERSON = auto()  # a role: "the director"
    NAME = auto()  # "Maria Lopez"
    ATTRIBUTE = auto()  # what a thing has: "the phone number"
    SPECIFIC = auto()  # a thing that is named, or one of its kind: "the kit", "the Petrel", but not "boats"
    BOUND = auto()  # who can have a duty: a person, a group, or all of a kind ("dogs")


@dataclass(frozen=True)
class Pattern:
    """One line of the table.

    Args:
        name: name of the fact that it finds.
        regime: way to make the question.
        wh: the words a question starts with, in small letters; may contain groups: ``how many {n}``.
        verbs: the verb forms it applies to.
        follows: expression of what comes after the verb.
        ask: end of the question; may contain groups of ``follows`` (with their leading space), ``{s}`` for the
            subject, ``{v}`` for the verb, ``{third}`` for its form after *who*, and ``{active}`` for the active
            voice of the participle in group ``p``.
        alone: False lets later patterns make a second question of the same statement.
    """

    name: str
    regime: Regime
    wh: str
    verbs: dict[str, Verb]
    follows: str
    ask: str = ""
    subject: Who = Who.ANY
    alone: bool = True

    @cached_property
    def statement(self) -> re.Pattern[str]:
        """Matches a statement from its start: groups ``s`` and ``v``, and those of ``follows``."""
        return re.compile(rf"(?P<s>\S.*?) {self._predicate}")

    @cached_property
    def second(self) -> re.Pattern[str]:
        """Matches a second predicate of the same subject: ``... and closes at 18:00``."""
        return re.compile(rf".*?\b(?:and|but) {self._predicate}")

    @property
    def _predicate(self) -> str:
        adverb = f"(?:{any_of(ADVERBS)})"
        return rf"(?:{adverb} )?(?P<v>{any_of(self.verbs)})(?: {adverb})?(?:{self.follows})"


def _do(bases: str) -> dict[str, Verb]:
    return verb_forms(bases.split())


def _done(*bases: str) -> str:
    return f"(?:{any_of(participle(base) for group in bases for base in group.split())})"


def _with_verb(words: Iterable[str], number: str = "") -> dict[str, Verb]:
    return {word: Verb(word, number) for word in words}


_IS = _with_verb(["is"], "singular") | _with_verb(["are"], "plural")
_BE = _IS | _with_verb(["was"], "singular") | _with_verb(["were"], "plural")
_DUTY = _with_verb(["must", "should", "shall"])
_MODAL = _DUTY | _with_verb(["can", "may", "will"])

# Verbs by what can be asked about them. (base forms)
_TIMED = (
    "open close start begin end finish depart arrive leave launch expire happen meet reopen shut stop run resume apply"
    " sail serve deliver take come go return land train rehearse sound visit wait play sleep travel"
    " appear turn"
)
_DATED = (
    "hold open close serve clean check update publish find build introduce renovate inspect empty test replace deliver"
    " pay collect review service launch create establish complete send return submit renew sign finish start lock ship"
    " change install cancel repeat calibrate water paint measure run take make write found"
)
_PLACED = (
    "keep store locate base situate find park display mount sell hold build bury hang install place return make produce"
    " leave buy collect report register submit pin chain attach fasten paint print carve hide serve repair"
    " record grow bake post plant moor anchor teach"
)
_HANDLED = (
    "keep store handle clean pay submit use wear book order cancel request reserve renew open reset send return report"
    " sign contact reach"
)
_AGENTS = (
    "lead manage direct run found design build own chair supervise approve head maintain coordinate operate write"
    " organise organize invent create review sign check publish train teach discover paint compose administer clean"
    " inspect repair keep mend bake brew ring play answer feed drive steer tend count audit edit print guard carve sew"
    " wind serve sell cook grow collect deliver open close judge light"
)
AGENT_PARTICIPLES = {participle(base): base for base in _AGENTS.split()}
_TRANSITIVE = (
    "include contain offer provide require need cover support produce serve sell show measure store protect control"
    " monitor regulate describe explain replace connect allow deliver supply represent mean detect process record"
    " employ host handle power open mark face burn carry lift reach list wear bring accept receive fill"
    " grow cut raise refuse watch borrow"
)
_CONTAINING = "have contain hold seat employ host offer own receive produce use store include support"

_SHORT_OBJECT = (
    r" (?:(?:the|its|their) \w+|breakfast|lunch|dinner|place|for (?:visitors|guests|members|everyone)|to the public"
    r"|[A-Z]\w+(?: [A-Z]\w+)?)"
)
_SPAN_ENDS = r"(?=$|[,;]| (?:and|but|or|on|in|from|at|per|for|each|every|to|with|by|if|after|before|until|without|a)\b)"
_NO_STATE = {"not", "never", "a", "an", "the", "no", "there", "here", "now", "both"}
# One word that is an adjective or a participle, whichever: what is left after the words that are neither.
_STATE = rf" (?!{any_of(ADVERBS | PREPOSITIONS | _NO_STATE)})[a-z-]+"
_ANYTHING = r" \S.*"
_OBJECT = r" (?:the|our|all|every|each|[A-Z])\b[^,;]*"
_ROLE = rf"(?:the|an?|our) (?:[\w-]+ ){{0,3}}(?:{any_of(ROLE_NOUNS)})s?\b.*"
_ONE_OR_MORE = any_of(f"{noun}{ending}" for noun in ROLE_NOUNS | GROUP_NOUNS for ending in ("", "s"))
_SOMEBODY = rf"(?:[A-Z][\w'.-]+ [A-Z]|(?:the|an?|our|two|three) (?:[\w-]+ ){{0,3}}{_ONE_OR_MORE})"
_NO_PREPOSITION = rf"(?:(?!{any_of(PREPOSITIONS)})\w+ )?"
_PLURAL = r"[a-z-]+[a-rt-z]s"
_NOT_VERB = r"(?!not\b|be\b|have\b|only\b|also\b|never\b|always\b)"

PATTERNS: tuple[Pattern, ...] = (
    # How much, how many, how long
    Pattern("cost", Regime.DO, "how much", _do("cost"), f" {MONEY}"),
    Pattern("free", Regime.BE, "how much", _IS, "(?: free of charge| free(?=$| for ))"),
    Pattern("price", Regime.BE, "how much", _BE, f" {MONEY}"),
    Pattern(
        "duration",
        Regime.DO,
        "how long",
        _do("last take run train dry steam rest sound stay wait"),
        f"(?: for)? {SPAN}{_SPAN_ENDS}",
    ),
    Pattern("state for a time", Regime.BE, "how long", _BE, rf"(?P<o>{_STATE}) for {SPAN}{_SPAN_ENDS}", "{o}"),
    Pattern("quantity", Regime.BE, "what", _IS, rf" (?:{NUMBER}|{_NO_PREPOSITION}[^\s,]*[\d@])", "", Who.ATTRIBUTE),
    Pattern("length of time", Regime.BE, "how long", _IS, f" {SPAN}$"),
    Pattern("weight", Regime.DO, "how much", _do("weigh"), f" {NUMBER}"),
    Pattern(
        "size", Regime.BE, "how {n}", _BE, rf" {NUMBER} (?:\w+ )?(?P<n>tall|long|wide|deep|high|old|thick|heavy)\b"
    ),
    Pattern(
        "count",
        Regime.DO,
        "how many {n}",
        _do(_CONTAINING),
        rf" {NUMBER} (?!(?:of|hundred|thousand|million|billion)\b)"
        rf"(?P<n>(?:[a-z-]+ )??(?:{_PLURAL}|people|children))(?=$|[ ,;])",
    ),
    # When, how often
    Pattern("time", Regime.DO, "when", _do(_TIMED), rf"(?P<o>{_SHORT_OBJECT})? {TIME}", "{o}"),
    Pattern("frequency", Regime.BE, "how often", _BE, rf"(?P<o>{_STATE}) {OFTEN}", "{o}"),
    Pattern(
        "time of state",
        Regime.BE,
        "when",
        _BE,
        rf"(?P<o>{_STATE}) (?:{TIME}|24 hours|around the clock|all (?:day|year|night))",
        "{o}",
    ),
    Pattern("date", Regime.BE, "when", _BE, rf" (?:on )?{DATE}$| on {DAYS}"),
    Pattern("time due", Regime.BE, "when", _DUTY, rf"(?P<o> be {_done(_DATED, _HANDLED)}) {TIME}", "{o}"),
    # Who
    Pattern("responsible", Regime.PLAIN, "who", _BE, r"(?P<o> (?:responsible for|in charge of) [^,;]+)", " {third}{o}"),
    Pattern("agent", Regime.PLAIN, "who", _do(_AGENTS), f"(?P<o>{_OBJECT})", " {third}{o}", Who.AGENT),
    Pattern(
        "doer",
        Regime.PLAIN,
        "who",
        _BE | _DUTY,
        rf"(?: be)? (?P<p>{_done(_AGENTS)}) by (?:the (?!end\b|time\b)|an? |our |[A-Z][\w'.-]+ [A-Z]).*",
        " {active} {s}",
    ),
    Pattern("done by", Regime.BE, "who", _BE, rf"(?P<o>{_STATE} by) {_SOMEBODY}", "{o}", Who.SPECIFIC),
    Pattern("role", Regime.PLAIN, "who", _IS, rf" (?P<o>{_ROLE})", " {third} {o}", Who.NAME, alone=False),
    Pattern("person", Regime.BE, "who", _BE, f" {_ROLE}", "", Who.NAME),
    Pattern("holder", Regime.BE, "who", _BE, r" [A-Z][\w'-]+(?: [A-Z][\w'.-]+)+$", "", Who.PERSON),
    # Where
    Pattern(
        "place kept",
        Regime.BE,
        "where",
        _BE,
        rf"(?P<o> (?!based on\b)(?:available|{_done(_PLACED)})) {PLACE}",
        "{o}",
    ),
    Pattern("place fixed", Regime.BE, "where", _BE, rf"(?P<o> {_done('pin chain attach fasten')}) to", "{o}"),
    Pattern(
        "place allowed", Regime.BE, "where", _BE, rf"(?P<o> (?:allowed|forbidden|permitted)) {PLACE_STRICT}", "{o}"
    ),
    Pattern("origin", Regime.DO, "where", _do("come"), rf"(?P<o> from){_ANYTHING}", "{o}"),
    Pattern("event", Regime.DO, "where", _do("take"), rf"(?P<o> place) {PLACE_STRICT}", "{o}"),
    Pattern("place", Regime.BE, "where", _BE, f" {PLACE_STRICT}"),
    Pattern(
        "place stands",
        Regime.DO,
        "where",
        _do("stand live sit lie hang meet work start stay sleep wait rest play rehearse land grow"),
        f" {PLACE_STRICT}",
    ),
    Pattern(
        "addressee",
        Regime.BE,
        "who",
        _MODAL,
        rf"(?P<o> be {_done(_PLACED, _HANDLED)} to) (?:the|an?|our) (?:[\w-]+ ){{0,3}}"
        + any_of(ROLE_NOUNS | {"team", "department", "committee", "board"}),
        "{o}",
    ),
    Pattern(
        "place due",
        Regime.BE,
        "where",
        _MODAL,
        rf"(?P<o> be {_done(_PLACED, _HANDLED)}) (?:(?:to|from) (?:the|our|room|[A-Z])\b|{PLACE_STRICT})",
        "{o}",
    ),
    # What for, of, called; why; how
    Pattern("purpose", Regime.BE, "what", _BE, f" used (?:for|to){_ANYTHING}", " used for"),
    Pattern("material", Regime.BE, "what", _BE, rf"(?P<o> made (?:of|from)){_ANYTHING}", "{o}"),
    Pattern("substance", Regime.BE, "what", _BE, rf"(?P<o> [a-z-]+ed with){_ANYTHING}", "{o}", Who.THING),
    Pattern("colour", Regime.BE, "what colour", _IS, rf"(?P<o>(?: painted)?) (?:[a-z]+ )?{any_of(COLOURS)}$", "{o}"),
    Pattern("name", Regime.BE, "what", _BE, rf"(?P<o> (?:called|known as)){_ANYTHING}", "{o}"),
    Pattern("entitlement", Regime.BE, "what", _BE, f"(?P<o> entitled to){_ANYTHING}", "{o}"),
    Pattern("meaning", Regime.DO, "what", _do("stand"), f"(?P<o> for){_ANYTHING}", "{o}"),
    Pattern("parts", Regime.DO, "what", _do("consist"), f"(?P<o> of){_ANYTHING}", "{o}"),
    Pattern("dependence", Regime.DO, "what", _do("depend"), f"(?P<o> on){_ANYTHING}", "{o}"),
    Pattern("reference", Regime.DO, "what", _do("refer belong apply lead"), f"(?P<o> to){_ANYTHING}", "{o}"),
    Pattern("reason", Regime.BE, "why", _BE, r"(?P<o> [a-z][^,;]*?),? because .*", "{o}"),
    Pattern(
        "way",
        Regime.BE,
        "how",
        _MODAL,
        rf"(?: only)?(?P<o> be {_done(_HANDLED)})"
        r" (?:by|with|in|at|via|through|online|under|below|using|without|upright)\b.*",
        "{o}",
    ),
    Pattern(
        "manner",
        Regime.BE,
        "how",
        _BE,
        rf"(?P<o> {_done(_HANDLED)}) (?:with|at|via|through|online|below|using|without|upright)\b.*",
        "{o}",
    ),
    # What must be done
    Pattern("forbidden", Regime.BE, "what", _with_verb(["cannot"]), r" (?!be\b)[a-z]+\b.*", " do", Who.BOUND),
    Pattern("not allowed", Regime.BE, "what", _MODAL, r" not (?!be\b|only\b|have\b)[a-z]+\b.*", " not do", Who.BOUND),
    Pattern(
        "treatment",
        Regime.PLAIN,
        "what",
        _DUTY,
        rf" be {_done(_HANDLED, _DATED)}\b.*",
        " {v} be done with {s}",
        Who.SPECIFIC,
    ),
    Pattern("duty", Regime.BE, "what", _DUTY, rf" {_NOT_VERB}[a-z]+\b.*", " do", Who.PERSON),
    # What it is, what it does
    Pattern("value", Regime.BE, "what", _IS, r" [A-Z\"\u201c].*", "", Who.ATTRIBUTE),
    Pattern(
        "who it is",
        Regime.BE,
        "who",
        _IS,
        rf" (?:an?|the) (?:[\w-]+ )?{any_of(ROLE_NOUNS)}(?:$| (?:of|named|called)\b).*",
    ),
    Pattern(
        "definition",
        Regime.BE,
        "what",
        _IS,
        rf" (?:an?|the|one of the|our) (?!(?:[\w-]+ ){{0,2}}(?:{any_of(NO_DEFINITION)}|[a-z]+est)\b)[a-z0-9].*",
        "",
        Who.THING,
    ),
    Pattern(
        "object",
        Regime.DO,
        "what",
        _do(_TRANSITIVE),
        rf" (?!{any_of(PREPOSITIONS)}|many\b|several\b|various\b)"
        rf"(?:the|an?|all|both|every|each|your|our|more|access|only|fresh|\d+"
        rf"|(?:[a-z-]+ )?{_PLURAL}|[a-z-]+ and)\b.*",
        "",
        Who.SPECIFIC,
    ),
)
