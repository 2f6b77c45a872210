"""Prompts made of some words of a text, as people search: "library card ticket", "How much for a library pass?".

They need no model, so that each fact can be asked for again and again in other words. Where a text has a detail (a
price, a time, a year, a name), half of its prompts begin with a question word that fits it, and leave out its words.
They are in English.
"""

from __future__ import annotations

import random
import re

from llamafarm_ray.data.text.near_words import SHARE_REPLACED, NearWords

__all__ = ["QUESTION_WORDS", "keyword_prompt"]

QUESTION_WORDS = frozenset(
    ("can", "did", "does", "how", "long", "many", "much", "time", "what", "when", "where", "which", "who", "why")
)
"""Words of a question that say what is asked for."""

_TEMPLATES = ("{}?", "What about {}?", "Tell me about {}.", "{}")
_NUM_KEYWORDS = (2, 2, 3, 3, 4)
_SHARE_OF_DETAILS = 0.5
_KEYWORD = re.compile(r"[^\W\d_]{3,}(?:[\u2019'-][^\W\d_]+)*(?!\w)")

_NUMBER = (
    r"(?:\d[\d.,]*|half an?|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|"
    r"fifty|sixty|hundred|dozen)"
)
_MONTH = (
    "January|February|March|April|May|June|July|August|September|October|November|December|"
    "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
)
_DETAILS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (rf"[£€$]\s?\d[\d.,]*|\b{_NUMBER} ?(?:euros?|pounds?|pence|dollars?|cents?)\b", ("How much", "What price")),
        (r"\b\d{1,2}(?:[.:]\d\d)? ?(?:am|pm|a\.m\.|p\.m\.)|\b(?:noon|midnight)\b", ("What time", "When")),
        (rf"\b(?:{_MONTH})s?\b|\b(?:1[5-9]|20)\d\d\b", ("When", "Which day", "What year")),
        (rf"\b{_NUMBER} ?(?:miles?|km|kilomet\w+|met(?:er|re)s?|feet|foot|yards?|inch\w*)\b", ("How far", "How long")),
        (rf"\b{_NUMBER} ?(?:minutes?|hours?|days?|weeks?|months?|years?|nights?)\b", ("How long", "How soon")),
        (rf"\b{_NUMBER}\b", ("How many",)),
        (r"(?<=[a-z,;] )[A-Z][a-z\u2019']+(?: (?:of |the )?[A-Z][a-z\u2019']+)+", ("Who", "Where", "Which")),
    )
)
"""Details of a text, and the question words that ask for them."""


def keyword_prompt(text: str, near_words: NearWords | None, rng: random.Random) -> str | None:
    """Return a prompt of two to four words of a text, in its order; None if it has no words.

    English stop words and numbers are left out.

    Args:
        near_words: words of like meaning that replace some of the words; None keeps them.
        rng: decides the words and the form.
    """
    details = [(found.span(), words) for pattern, words in _DETAILS for found in pattern.finditer(text)]
    template, rest = rng.choice(_TEMPLATES), text
    if details and rng.random() < _SHARE_OF_DETAILS:
        (start, end), words = rng.choice(details)
        rest = f"{text[:start]} {text[end:]}"
        template = f"{rng.choice(words)} {{}}?"
    keywords = _keywords(rest, rng) or _keywords(text, rng)
    if near_words is not None:
        keywords = [near_words.pick(word, rng) if rng.random() < SHARE_REPLACED else word for word in keywords]
    return template.format(" ".join(keywords)) if keywords else None


def _keywords(text: str, rng: random.Random) -> list[str]:
    """Return two to four of the words that say something: half of the time words that stand next to each other."""
    from bm25s.stopwords import STOPWORDS_EN  # imports numba

    words = [word for word in dict.fromkeys(_KEYWORD.findall(text)) if word.casefold() not in STOPWORDS_EN]
    number = min(len(words), rng.choice(_NUM_KEYWORDS))
    if rng.random() < _SHARE_OF_DETAILS:
        start = rng.randrange(len(words) - number + 1)
        return words[start : start + number]
    chosen = set(rng.sample(words, number))
    return [word for word in words if word in chosen]
