"""The little English grammar that turning a statement into a question needs: verb forms, subjects, agreement.

Everything here refuses (returns None) rather than guesses: a question that isn't made costs nothing, a broken one
is learnt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from llamafarm_ray.data.generation.rules.context import repeated_nouns
from llamafarm_ray.data.generation.rules.english import (
    ATTRIBUTE_NOUNS,
    COMMON_NOUNS,
    COMPARATIVES,
    COUNTLESS_NOUNS,
    DETERMINERS,
    EMPTY_HEADS,
    FINITE_WORDS,
    GROUP_NOUNS,
    IMPERATIVES,
    IRREGULAR_PLURALS,
    IRREGULAR_VERBS,
    POSSESSIVES,
    PREPOSITIONS,
    QUANTIFIERS,
    ROLE_NOUNS,
    SUBJECT_BREAKERS,
    SUBJECT_STARTS_REFUSED,
)

__all__ = ["Lexicon", "Subject", "Verb", "head_of", "is_plural", "participle", "past", "third_person", "verb_forms"]

_VOWELS = "aeiou"
_MAX_SUBJECT_WORDS = 10
_FORBIDDEN_IN_SUBJECT = re.compile(r"[,;:()\[\]\"\u201c\u201d!?\u2026]|\.(?:\s|$)")
_PLACE_IN_TEXT = re.compile(
    r"(?:Line|Table|Figure|Section|Chapter|Step|Example|Listing|Item|Row|Page|Part|Version|Appendix|Column)s? \S{1,6}"
)
_NOUNS_IN_LY = frozenset(("family", "assembly", "supply", "july", "italy", "reply", "jelly", "fly", "ally"))
_ABSTRACT_SUFFIXES = ("ing", "tion", "sion", "ment", "ness", "ity", "ance", "ence", "ship", "age")


def third_person(base: str) -> str:
    """``open`` to ``opens``, ``carry`` to ``carries``, ``have`` to ``has``."""
    if base == "have":
        return "has"
    if base.endswith("y") and base[-2] not in _VOWELS:
        return f"{base[:-1]}ies"
    return f"{base}es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else f"{base}s"


def past(base: str) -> str:
    """``open`` to ``opened``, ``begin`` to ``began``."""
    return IRREGULAR_VERBS[base][0] if base in IRREGULAR_VERBS else _regular_past(base)


def participle(base: str) -> str:
    """``open`` to ``opened``, ``begin`` to ``begun``."""
    return IRREGULAR_VERBS[base][1] if base in IRREGULAR_VERBS else _regular_past(base)


def _regular_past(base: str) -> str:
    if base.endswith("e"):
        return f"{base}d"
    if base.endswith("y") and base[-2] not in _VOWELS:
        return f"{base[:-1]}ied"
    # One syllable, one vowel, one consonant: stop, plan; but not open, mix or show.
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", base):
        return f"{base}{base[-1]}ed"
    return f"{base}ed"


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb as it stands in a sentence. ``number`` is its grammatical number, empty in the past."""

    base: str
    number: str

    @property
    def auxiliary(self) -> str:
        """Auxiliary before the subject of a question: does, do or did."""
        return {"singular": "does", "plural": "do"}.get(self.number, "did")


def verb_forms(bases: Iterable[str]) -> dict[str, Verb]:
    """Every finite form of the verbs in ``bases``; where present and past look alike, it is the present."""
    forms: dict[str, Verb] = {}
    for base in bases:
        forms.setdefault(past(base), Verb(base, ""))
        forms[base] = Verb(base, "plural")
        forms[third_person(base)] = Verb(base, "singular")
    return forms


def head_of(phrase: str) -> str:
    """The head of a noun phrase in small letters: its last word before a preposition, *price* of "price of entry"."""
    words = phrase.lower().split()
    return next((words[i - 1] for i, word in enumerate(words) if i and word in PREPOSITIONS), words[-1])


def is_plural(phrase: str) -> bool:
    """Return True if a noun phrase's head (its last word before a preposition) looks plural, or *and* joins two."""
    words, head = phrase.lower().split(), head_of(phrase)
    if "and" in words and words.index("and") <= words.index(head):
        return True
    return head in IRREGULAR_PLURALS or (
        re.fullmatch(r"[^\W\d_][\w\u2019'-]*s", head) is not None
        and not head.endswith(("ss", "us", "is", "'s", "\u2019s"))
    )


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words of a document by their spelling inside sentences: small, or with a capital.

    ``repeated`` are those that it uses for one thing of many, see :func:`repeated_nouns`.
    """

    small: frozenset[str] = field(default_factory=frozenset)
    capital: frozenset[str] = field(default_factory=frozenset)
    repeated: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Self:
        """Gather from every word but the first of each full sentence; what a colon or dash starts doesn't count."""
        small: Counter[str] = Counter()
        capital: Counter[str] = Counter()
        whole = [sentence for sentence in sentences if sentence.endswith((".", "!", "?"))]
        for sentence in whole:
            for word in re.findall(r"(?<![:;\u2013] )(?<![\w'\u2019./-])[^\W\d_][\w'\u2019-]*(?![/=]|\.\w)", sentence)[
                1:
            ]:
                (small if word[0].islower() else capital)[word.lower()] += 1
        names = frozenset(word for word, count in capital.items() if count > small[word])
        return cls(frozenset(small) - names, names, repeated_nouns(whole))

    def inline(self, phrase: str) -> str:
        """``phrase`` as it looks inside a sentence: its first letter small, unless it is a name or an abbreviation."""
        first, _, rest = phrase.partition(" ")
        if not first[:1].isupper() or self._keeps_capital(first, rest):
            return phrase
        return f"{first[0].lower()}{first[1:]}{' ' if rest else ''}{rest}"

    def _keeps_capital(self, first: str, rest: str) -> bool:
        word = first.lower()
        if len(first) > 1 and first.isupper():
            return True
        if word in DETERMINERS or word in POSSESSIVES or (word in ATTRIBUTE_NOUNS and first[1:].islower()):
            return False
        if not first[1:].islower() or word in self.capital:
            return True  # an abbreviation, something with digits, or a name by the document's own evidence
        if word in self.small or word in COMMON_NOUNS:
            return False
        if rest[:1].isupper() or rest[:1].isdigit():
            return True  # "Maria Lopez", "Python 2.5"
        return not (rest or word.endswith(_ABSTRACT_SUFFIXES) or is_plural(word))


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a statement, fit to stand inside a question. ``pronoun`` is empty where *it* could be wrong.

    ``action`` marks what somebody does, "choosing the right paint": it is no thing that has a definition.
    """

    text: str
    plural: bool
    person: bool
    group: bool
    name: bool
    attribute: bool
    action: bool = False

    @property
    def pronoun(self) -> str:
        """``it`` or ``they``; empty for a single person."""
        return "they" if self.plural else "" if self.person else "it"

    @property
    def initial(self) -> str:
        """The subject at the start of a sentence."""
        return f"{self.text[0].upper()}{self.text[1:]}"

    @classmethod
    def parse(cls, phrase: str, lexicon: Lexicon, number: str = "") -> Self | None:
        """Read a noun phrase that starts a sentence.

        Args:
            phrase: everything before the verb.
            lexicon: the document's spelling of its words.
            number: number of the verb, "singular" or "plural"; empty if the form doesn't tell.

        Returns:
            None where the phrase is more than a noun phrase, points outside of the sentence (pronouns), or does not
            agree with its verb: then the verb is not the subject's, or is no verb at all.
        """
        words = phrase.split()
        lowered = [word.lower() for word in words]
        if not 0 < len(words) <= _MAX_SUBJECT_WORDS or _FORBIDDEN_IN_SUBJECT.search(phrase):
            return None
        if SUBJECT_BREAKERS.intersection(lowered) or not _starts_well(words, lowered) or _names_nothing(words):
            return None
        plural = is_plural(phrase)
        if (number == "plural" and not plural) or (number == "singular" and "and" in lowered and plural):
            return None
        if number:
            plural = number == "plural"
        text = lexicon.inline(phrase)
        if lowered[0] in POSSESSIVES:
            text = " ".join((POSSESSIVES[lowered[0]], *words[1:]))
        head = head_of(phrase)
        name = len(words) > 1 and all(word[0].isupper() for word in words) and lowered[0] not in DETERMINERS
        return cls(
            text,
            plural,
            person=head.removesuffix("s") in ROLE_NOUNS or head.endswith(("man", "woman")),
            group=head in GROUP_NOUNS,
            name=name,
            attribute=head in ATTRIBUTE_NOUNS,
            action=_is_action(lowered) or (number == "singular" and lowered[0].endswith("ing") and is_plural(phrase)),
        )


def _is_action(words: list[str]) -> bool:
    """Return True for "choosing the right paint" and "setting up a farm", but not for "parking fees"."""
    after = DETERMINERS | POSSESSIVES.keys() | {"up", "down", "out", "off", "away", "in", "on", "with", "to"}
    return len(words) > 1 and words[0].endswith("ing") and (words[1] in after or bool(DETERMINERS.intersection(words)))


def _names_nothing(words: list[str]) -> bool:
    """Return True for "the default value": it is unclear of which thing, away from its page."""
    if len(words) == 1 and words[0].lower().removesuffix("s") in COUNTLESS_NOUNS:
        return True
    specific = any(not word.islower() for word in words[1:]) or PREPOSITIONS.intersection(words)
    return words[-1] in EMPTY_HEADS and not specific


def _starts_well(words: list[str], lowered: list[str]) -> bool:
    first, second, last = lowered[0], lowered[1] if len(words) > 1 else "", lowered[-1]
    refused = (
        not words[0][0].isupper(),  # a digit is the number of a line or of a note
        first in SUBJECT_STARTS_REFUSED or first in QUANTIFIERS or first in COMPARATIVES,
        _PLACE_IN_TEXT.fullmatch(" ".join(words)),
        len(words) == 1 and (len(first) == 1 or first == "default"),
        first in EMPTY_HEADS and len(words) == 2,  # "parameter size"
        first.endswith("ly") and first not in _NOUNS_IN_LY,
        len(words) > 1 and last.endswith("ly") and last not in _NOUNS_IN_LY,  # "the road hardly"
        first == "the" and second in {"most", "least", "best", "only"},
        # "Check the valve ..." is an order, "Opening the valve ..." a subject; a lone determiner is nothing.
        first in IMPERATIVES and (not second or second in DETERMINERS or second in POSSESSIVES or second[-2:] == "ly"),
        second in ("the", "a", "an") and first != "all" and not first.endswith("ing"),
        last == "both" or last in DETERMINERS or last in PREPOSITIONS or last in FINITE_WORDS,
    )
    return not any(refused)
