"""Lexical support of an answer by its passage: the share of its words found there, and all numbers and names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from llamafarm_ray.text.scripts import MARKS, UNSPACED_BLOCKS

__all__ = ["names_and_numbers", "support", "unsupported_parts"]

_LETTERS = rf"[^\W_](?:[^\W_]|[{MARKS}])*"
_TOKEN = re.compile(
    r"(?P<number>(?<![^\W_])[-+\u2212]?\d+(?:[.,:'\u2019]\d+)*(?![^\W_]))"
    rf"|(?P<word>{_LETTERS}(?:['\u2019-]{_LETTERS})*)"
)
_UNSPACED = re.compile(f"[{UNSPACED_BLOCKS}]+")
_GROUPED = re.compile(r"\d{1,3}(?:[.,'\u2019]\d{3})+")
_SENTENCE_END = re.compile(r"[.!?:;|\u2026\u3002\"\u201c\u201e(\u2022\u2013\n-]\s*$")
_PARTS = re.compile(r"['\u2019-]")
_CONTENT_LETTERS = 4
_CONTENT_LETTERS_SHORT_SCRIPT = 3  # Arabic, Hebrew and others that leave most vowels out
_MAX_SUFFIX = 3
_CAPITALS_ARE_NAMES = 0.2
"""Share of capitals inside sentences beyond which (German nouns, title case) a capital marks no name."""


def support(answer: str, passage: str, question: str = "") -> float:
    """Return how far ``passage`` supports ``answer`` by its words, 0.0 to 1.0; no language is assumed.

    The share of the answer's content words (four letters or more; pairs of characters where a script has no spaces)
    that occur in the passage, endings apart. A number or a name that doesn't occur makes it 0.0: "8:00", "08:00" and
    "1,000" and "1000" are the same number, "eight" is a word. An answer without any content is not supported.

    Give the title and headings with the passage, if the answer may name what they name. It may repeat the words and
    names of its question too, not the numbers.
    """
    said, known = _Content.of(answer), _Content.of(passage)
    known.add_words(_Content.of(question))
    if said.missing(known, names=known.capitals_are_names):
        return 0.0
    units = [known.has(word) for word in said.words] + [pair in known.pairs for pair in said.pairs]
    units += [True] * (len(said.numbers) + len(said.codes))
    return sum(units) / len(units) if units else 0.0


def unsupported_parts(answer: str, passage: str) -> list[str]:
    """Return the words, numbers and names of ``answer`` that ``passage`` lacks, in order, for a report."""
    said, known = _Content.of(answer), _Content.of(passage)
    missing = said.missing(known, names=True)
    missing += [word for word in said.words if not known.has(word)]
    return list(dict.fromkeys(missing))


def names_and_numbers(text: str) -> frozenset[str]:
    """Return the numbers, codes and names of ``text``: texts that differ in them state different facts."""
    content = _Content.of(text)
    return frozenset(content.names) | content.codes.keys() | frozenset().union(*content.numbers.values())


@dataclass
class _Content:
    """Parts of a text that carry meaning.

    Args:
        numbers: spelling of each number, with the values it may have.
        codes: words with a digit, as "K1" or "IPv6", in lower case.
        names: words with a capital inside a sentence, in lower case.
        words: the content words, in lower case.
        every: all words by their first three letters.
        pairs: pairs of neighboring characters of scripts without spaces.
        num_capitals: number of words inside sentences with a capital.
    """

    numbers: dict[str, frozenset[str]] = field(default_factory=dict)
    codes: dict[str, None] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    words: dict[str, None] = field(default_factory=dict)
    every: dict[str, set[str]] = field(default_factory=dict)
    pairs: dict[str, None] = field(default_factory=dict)
    num_inside: int = 0
    num_capitals: int = 0

    @classmethod
    def of(cls, text: str) -> _Content:
        """Return the content of ``text``."""
        content = cls()
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
            for run in _UNSPACED.findall(text):
                content.pairs |= dict.fromkeys(run[at : at + 2] for at in range(max(1, len(run) - 1)))
            text = _UNSPACED.sub(" ", text)
        end = 0
        for match in _TOKEN.finditer(text):
            inside = end > 0 and not _SENTENCE_END.search(text, end, match.start())
            end = match.end()
            if match["number"]:
                content.numbers[match["number"]] = frozenset(_values(match["number"]))
            else:
                content._add(match["word"], inside=inside)
        return content

    def _add(self, spelling: str, *, inside: bool) -> None:
        word = spelling.casefold()
        if any(character.isdigit() for character in word):
            self.codes[word] = None
            return
        for part in {word, *_PARTS.split(word)}:
            self.every.setdefault(part[:3], set()).add(part)
        if inside:
            self.num_inside += 1
            if spelling[0].isupper():
                self.num_capitals += 1
                self.names[word] = None
        has_case = spelling.lower() != spelling.upper()
        if len(word) >= (_CONTENT_LETTERS if has_case else _CONTENT_LETTERS_SHORT_SCRIPT):
            self.words[word] = None

    def add_words(self, other: _Content) -> None:
        """Add the words of ``other``."""
        for first_letters, words in other.every.items():
            self.every.setdefault(first_letters, set()).update(words)
        self.pairs |= other.pairs

    @property
    def capitals_are_names(self) -> bool:
        return self.num_capitals <= max(2, _CAPITALS_ARE_NAMES * self.num_inside)

    def missing(self, known: _Content, *, names: bool) -> list[str]:
        """Return the numbers, codes and (if asked) names that ``known`` lacks."""
        values = frozenset[str]().union(*known.numbers.values())
        missing = [number for number, means in self.numbers.items() if not means & values]
        missing += [code for code in self.codes if code not in known.codes]
        if names:
            missing += [name for name in self.names if not known.has(name)]
        return missing

    def has(self, word: str) -> bool:
        """Return True if ``word`` occurs, or with another ending, or all parts of a compound with hyphens do."""
        if any(_same_stem(word, other) for other in self.every.get(word[:3], ())):
            return True
        parts = _PARTS.split(word)
        return len(parts) > 1 and all(len(part) < _CONTENT_LETTERS or self.has(part) for part in parts)


def _same_stem(one: str, other: str) -> bool:
    """Return True if two words differ in a short ending only: "libraries" and "library", not "form" and "fort"."""
    if one == other:
        return True
    common = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    ends = len(one) - common, len(other) - common
    if max(ends) > _MAX_SUFFIX or common < _MAX_SUFFIX:
        return False
    return min(ends) == 0 or (common > _MAX_SUFFIX and sum(ends) <= common)


def _values(number: str) -> Iterator[str]:
    """Yield the values a spelling may have: "1,000" is a thousand, or in other countries one."""
    digits = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in number.replace("\u2212", "-")).lstrip("+")
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if _GROUPED.fullmatch(digits):
        yield sign + re.sub(r"\D", "", digits).lstrip("0")
    whole, *rest = re.split(r"[.,:'\u2019]", digits)
    parts = [whole.lstrip("0") or "0", *rest]
    if len(parts) > 2 and _GROUPED.fullmatch(digits[: -len(parts[-1]) - 1]):  # 1,234.50
        parts = ["".join(re.split(r"\D", digits[: -len(parts[-1]) - 1])), parts[-1]]
    if len(parts) == 2:  # 8:00 is 8, and 3.50 is 3.5
        parts[1] = parts[1].rstrip("0")
    yield sign + ".".join(part for part in parts if part)
