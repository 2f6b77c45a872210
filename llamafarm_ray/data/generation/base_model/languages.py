"""Rules of each language for the writer: example questions for its prompt, words that point back, stop words.

The lessons are in English. For a passage in another language the prompt begins with examples in that language, where
this package has some; without them it is the bare form, and questions in another language than the passage's are
dropped.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.data.augmentation.lessons import LESSON_LANGUAGES, heading_lines

__all__ = ["EXAMPLES_VERSION", "EXAMPLE_LANGUAGES", "Language", "language_rules"]

EXAMPLES_VERSION = "1"
"""Version of the examples. Raise it with each change, so that older pairs differ."""

EXAMPLE_LANGUAGES = ("de", "es", "fr", "ja", "zh")
"""Languages with examples."""

_FILE = Path(__file__).with_name("examples.jsonl")
_ENGLISH_POINTERS = (
    r"(?:it|he|she|they|this|that|these|those|then|there|her|his|its|their|both|after that|because of this)\b"
)
_POINTERS = {
    "en": _ENGLISH_POINTERS,
    "de": r"(?:er|sie|es|dies(?:e[mnrs]?)?|jene\w*|dort|dann|danach|deshalb|dadurch|sein\w*|ihr\w*|beide\w*)\b",
    "fr": r"(?:il|elle|ils|elles|cela|ceci|ce|cette|ces|celui-ci|celle-ci|son|sa|ses|leurs?|ensuite|puis|là)\b",
    "es": r"(?:él|ella|ellos|ellas|est[aeo]s?|es[aeo]s?|su|sus|allí|luego|después|ambos|ambas|tiene|mide|fue)\b",
    "zh": r"(?:它|他|她|这|那|其|此|该|之后|然后)",
    "ja": r"(?:それ|これ|その|この|彼|そこ|ここ|あの|その後)",
}
_STOP_WORD_LISTS = {
    "en": "EN",
    "de": "GERMAN",
    "fr": "FRENCH",
    "es": "SPANISH",
    "it": "ITALIAN",
    "nl": "DUTCH",
    "pt": "PORTUGUESE",
    "ru": "RUSSIAN",
    "sv": "SWEDISH",
    "tr": "TURKISH",
}
_CAPITAL_NOUNS = frozenset({"de", "lb"})
_NO_QUESTION_MARK = frozenset({"th", "lo", "my", "km"})
_MARKS = ("?", "\uff1f", "\u061f", "\u037e", "\u055e")
_GREEK_MARK = ";"


@dataclass(frozen=True, slots=True)
class Language:
    """Rules for the questions of one language.

    Args:
        code: ISO 639-1.
        examples: the beginning of a prompt; empty if there are none, or the lessons teach this language.
        points_back: matches the start of a sentence that the one before it explains; None: not known.
        stop_words: words that tell no question from another.
        capitals_are_names: a capital inside a sentence marks a name.
        marks: ends of a question; empty if the language needs none.
    """

    code: str
    examples: str
    points_back: re.Pattern[str] | None
    stop_words: frozenset[str]
    capitals_are_names: bool
    marks: tuple[str, ...]

    @property
    def is_taught(self) -> bool:
        """True if the lessons are in this language."""
        return self.code in LESSON_LANGUAGES


@functools.cache
def language_rules(code: str) -> Language:
    """Return the rules of a language; those of English for "", a passage that is too short to tell."""
    code = code or "en"
    pointers = _POINTERS.get(code)
    return Language(
        code,
        "".join(_examples().get(code, ())),
        re.compile(pointers, re.IGNORECASE) if pointers else None,
        _stop_words(code),
        code not in _CAPITAL_NOUNS,
        () if code in _NO_QUESTION_MARK else (*_MARKS, _GREEK_MARK) if code == "el" else _MARKS,
    )


def _stop_words(code: str) -> frozenset[str]:
    from bm25s import stopwords  # imports numba

    name = _STOP_WORD_LISTS.get(code)
    return frozenset(getattr(stopwords, f"STOPWORDS_{name}")) if name else frozenset()


@functools.cache
def _examples() -> dict[str, list[str]]:
    """Return the examples of each language in the form of the lessons."""
    found: dict[str, list[str]] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        lines = heading_lines(record["topic"], record["before"], record["text"])
        asked = "".join(f"Question: {question}\n" for question in record["questions"])
        found.setdefault(record["language"], []).append(f"{lines}{asked}\n")
    return found
