"""Questions from statements: a pattern of the table, a subject, and the phrasings people would use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llamafarm_ray.data.generation.rules.context import is_vague, leans_on_context
from llamafarm_ray.data.generation.rules.english import (
    COMPARATIVES,
    CONDITION_STARTS_REFUSED,
    CONDITION_VERDICTS,
    COUNTLESS_NOUNS,
    DETERMINERS,
    FINITE_WORDS,
    IMPERATIVES,
    POSSESSIVES,
    QUANTIFIERS,
)
from llamafarm_ray.data.generation.rules.grammar import Lexicon, Subject, past, third_person
from llamafarm_ray.data.generation.rules.patterns import AGENT_PARTICIPLES, PATTERNS, Pattern, Regime, Who

__all__ = ["Question", "questions_of"]

_MAX_SENTENCE_WORDS = 60
_MAX_SENTENCE_CHARS = 600
_MAX_QUESTION_WORDS = 30
# Words that point out of the question, where nobody can know what they mean.
_POINTING = re.compile(
    r"\b(?:this|that|these|those|it|they|them|he|she|him|her|his|we|us|here|there|above|below|following)\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"If (?P<condition>[^,;:]{8,120}), (?P<main>[^,].*)")
_MIN_MAIN_WORDS = 3
_MIN_YOU_WORDS = 5
_UNTOLD = frozenset(("more", "else", "someone", "which", "me", "my"))
_MAX_BARE_CONDITION = 6
# Polite or plain orders: "you should ...", and a verb with its object, "turn the wheel".
_ADVICE = re.compile(
    r"(?:[Pp]lease\b|you (?:should|must|need to|have to)\b|(?!\w+ing\b)[a-z]+ (?:the|an?|your|it|them|all)\b)"
)
_NO_CONSEQUENCE = re.compile(
    r"(?:or|and|but|not|also|more|first|refer|consider|try|see|you|we|it|there|they|no|feel|do|don't|so|just|simply|this|that|one|be|only|nothing|anything)\b"
    r"|.*\b(?:please|may|might|should|could|better|appropriate|preferable|possible|recommended|legitimately|probably)\b",
    re.IGNORECASE,
)
"""Statements about a condition that are no consequence: advice, or that something is good."""
_GOAL = re.compile(r"To (?P<goal>(?P<verb>[a-z]+) [^,;:]{3,80}), (?P<main>[^,\s]+ [^,].*)")


@dataclass(frozen=True, slots=True)
class Question:
    """A question in up to four phrasings.

    Args:
        direct: "When does the library open?"
        indirect: "when the library opens": what follows "Can you tell me"; empty if it has the direct phrasing only.
        topic: "The library: when does it open?"; empty where no pronoun fits.
    """

    direct: str
    indirect: str
    topic: str = ""

    @property
    def phrasings(self) -> tuple[str, ...]:
        """The direct question first; all of them different."""
        if not self.indirect:
            return (self.direct,)
        return (
            self.direct,
            f"Can you tell me {self.indirect}?",
            f"I'd like to know {self.indirect}.",
            self.topic or f"Do you know {self.indirect}?",
        )


def questions_of(sentence: str, lexicon: Lexicon) -> Iterator[Question]:
    """The questions that ``sentence`` answers on its own; none rather than a broken one."""
    text = sentence.strip()
    if len(text) > _MAX_SENTENCE_CHARS or len(text.split()) > _MAX_SENTENCE_WORDS:
        return
    if text.endswith(("?", ":", "\u2026")) or not text[:1].isalnum():
        return
    text = text.rstrip(".! ")
    found = [*_from_condition(text), *_from_goal(text)] or list(_from_patterns(text, lexicon))
    for question in found:
        if _stands_alone(question, text, lexicon):
            yield question


def _stands_alone(question: Question, sentence: str, lexicon: Lexicon) -> bool:
    """Return True if question and answer can be understood without what stands around the sentence."""
    strict = not question.indirect.startswith(("when ", "where ", "how much ", "how many ", "how long ", "how often "))
    return (
        len(question.direct.split()) <= _MAX_QUESTION_WORDS
        and not _POINTING.search(question.indirect)
        and not is_vague(question.indirect, lexicon.repeated, strict=strict)
        and not leans_on_context(sentence, strict=strict)
    )


def _from_condition(text: str) -> Iterator[Question]:
    """Yield a question about a condition: "What should you do if it rings?", "What happens if a book is late?"."""
    match = _CONDITION.fullmatch(text)
    if match is None or not _is_closed(match["condition"]) or not _is_clause(match["condition"]):
        return
    condition, main = match["condition"], match["main"].removeprefix("then ")
    if len(main.split()) < _MIN_MAIN_WORDS:
        return
    if main.lower().startswith(("see ", "refer ", "and ", "or ", "but ")) or " so " in f" {condition} ":
        return
    if main.split()[0].lower() in IMPERATIVES or _ADVICE.match(main):
        yield Question(f"What should you do if {condition}?", f"what you should do if {condition}")
    elif not _NO_CONSEQUENCE.match(main):
        yield Question(f"What happens if {condition}?", f"what happens if {condition}")


def _is_clause(condition: str) -> bool:
    """Return True for a condition with a subject that names something: "a book is late", but not "given twice"."""
    if not re.match(r"(?:you|an?|the|your|our|my|all) |[A-Z]", condition) or _POINTING.search(condition):
        return False
    words = condition.lower().split()
    if words[-1] == "one" or _UNTOLD.intersection(words) or (len(words) < _MIN_YOU_WORDS and words[1] == "are"):
        return False
    first = words[0]
    if first in QUANTIFIERS | COMPARATIVES | FINITE_WORDS or first in CONDITION_STARTS_REFUSED or first.endswith("ed"):
        return False
    is_named = any(re.search(r"[^\W\d][^a-z]", word) or word.isupper() for word in condition.split()[1:])
    if (
        not is_named
        and len(words) <= _MAX_BARE_CONDITION
        and words[0] in {"a", "an"}
        and words[-1] in CONDITION_VERDICTS
    ):
        return False
    return first.isalpha() and len(words) > 2 and words[-1] not in FINITE_WORDS


def _is_closed(text: str) -> bool:
    """Return True if every bracket and quotation mark that opens in ``text`` closes there."""
    pairs = (("(", ")"), ("[", "]"), ("\u201c", "\u201d"))
    return all(text.count(opening) == text.count(closing) for opening, closing in pairs) and text.count('"') % 2 == 0


def _from_goal(text: str) -> Iterator[Question]:
    """Yield questions about a goal: "How do you reset the pump?" from "To reset the pump, hold the red button"."""
    match = _GOAL.fullmatch(text)
    if (
        match
        and match["main"].split()[0].lower() in IMPERATIVES
        and match["verb"] != "be"
        and _is_closed(match["goal"])
        and " " in match["goal"].strip().partition(" ")[2]
    ):
        yield Question(f"How do you {match['goal']}?", f"how to {match['goal']}")


def _from_patterns(text: str, lexicon: Lexicon) -> Iterator[Question]:
    for pattern in PATTERNS:
        match = pattern.statement.match(text)
        if match is None:
            continue
        verb = pattern.verbs[match["v"]]
        subject = Subject.parse(match["s"], lexicon, verb.number)
        if subject is None or not _takes(pattern.subject, subject) or _is_any(subject, pattern):
            continue
        yield _question(pattern, match, subject)
        second = pattern.second.match(text, match.end("v"))
        if second and second["v"] != match["v"] and pattern.regime is Regime.DO:
            yield _question(pattern, second, subject)
        if pattern.alone:
            return


def _takes(who: Who, subject: Subject) -> bool:
    fits = {
        Who.ANY: True,
        Who.THING: not subject.person and not subject.action,
        Who.AGENT: subject.person or subject.group or subject.name,
        Who.PERSON: subject.person,
        Who.SPECIFIC: not subject.action and _is_specific(subject.text.split()),
        Who.BOUND: subject.person or subject.group or (subject.plural and " " not in subject.text),
        Who.NAME: subject.name and not subject.group,
        Who.ATTRIBUTE: subject.attribute,
    }
    return fits[who]


def _is_any(subject: Subject, pattern: Pattern) -> bool:
    """Return True for "a script" where its times and places are asked for: it is unclear of which one."""
    words = subject.text.split()
    return not pattern.wh.startswith("what") and words[0] in {"a", "an"} and words[-1] in COUNTLESS_NOUNS


def _is_specific(words: list[str]) -> bool:
    """Return True for "the kit", "Sony A7" and "FETCH_HEAD", but not for "boats" and "Sony", who do a lot."""
    if len(words) == 1 or words[0].lower() == "all":
        return not words[0].isalpha()
    return words[0].lower() in DETERMINERS or words[0] in POSSESSIVES or any(not word.islower() for word in words)


def _question(pattern: Pattern, match: re.Match[str], subject: Subject) -> Question:
    groups = {name: value or "" for name, value in match.groupdict().items()}
    verb = pattern.verbs[groups["v"]]
    parts = groups | {"s": subject.text, "third": _after_who(groups["v"], verb.base), "active": _active(groups)}
    wh = pattern.wh.format(**parts)
    ask = pattern.ask.format(**parts)
    if pattern.regime is Regime.PLAIN:
        return Question(f"{_initial(wh)}{ask}?", f"{wh}{ask}")
    auxiliary, rest = (verb.auxiliary, f" {verb.base}{ask}") if pattern.regime is Regime.DO else (groups["v"], ask)
    if auxiliary == "cannot":
        auxiliary, rest = "can", f" not{ask}"
    topic = ""
    if subject.pronoun and pattern.subject is not Who.NAME:
        topic = f"{subject.initial}: {wh} {auxiliary} {subject.pronoun}{rest}?"
    direct = f"{_initial(wh)} {auxiliary} {subject.text}{rest}?"
    return Question(direct, f"{wh} {subject.text} {groups['v']}{ask}", topic)


def _after_who(verb: str, base: str) -> str:
    """The form after *who*, which is singular: leads for lead, is for are; the past stays."""
    if verb in ("is", "are", "was", "were"):
        return "is" if verb in ("is", "are") else "was"
    return third_person(base) if verb == base else verb


def _active(groups: dict[str, str]) -> str:
    """``was built`` to ``built``, ``is managed`` to ``manages``, ``must be signed`` to ``must sign``."""
    if "p" not in groups:
        return ""
    base = AGENT_PARTICIPLES[groups["p"]]
    match groups["v"]:
        case "is" | "are":
            return third_person(base)
        case "was" | "were":
            return past(base)
        case modal:
            return f"{modal} {base}"


def _initial(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
