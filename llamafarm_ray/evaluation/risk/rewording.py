"""The same question in other words or letters, by rules and a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Final

from llamafarm_ray.text.scripts import UNSPACED
from llamafarm_ray.types import Digest

__all__ = ["REWORDINGS"]

_WORD = re.compile(rf"[^\W\d_{UNSPACED}]{{4,}}")
_LETTERS_PER_TYPO = 40
_FRAMES = ("I would like to know: {}", "Could you tell me the following? {}", "Please answer this question. {}")
_ENGLISH = re.compile(
    r"(?:What|Who|Whose|Where|When|Which|Why|How|Is|Are|Was|Were|Do|Does|Did|Can|In|On|At|From|By|Name)\b"
)
_RULES = (
    (re.compile(r"^What is\b"), "What's"),
    (re.compile(r"^Who is\b"), "Who's"),
    (re.compile(r"^Where is\b"), "Where's"),
    (re.compile(r"^How many\b"), "What number of"),
    (re.compile(r"^When (was|were|did)\b"), r"In what year or at what time \1"),
    (re.compile(r"\bdoes not\b"), "doesn't"),
    (re.compile(r"\bdo not\b"), "don't"),
    (re.compile(r"\bis not\b"), "isn't"),
)


def _random(text: str, seed: int) -> random.Random:
    return random.Random(Digest.of(f"{seed} {text}".encode()))


def typos(question: str, seed: int) -> str:
    """Return a question with neighboring letters swapped inside words without a capital or digit.

    Names and numbers keep their spelling: another one would ask something else. One typo for each 40 letters, one at
    least. Source: the character swaps of Belinkov and Bisk, 2018 (https://arxiv.org/abs/1711.02173).
    """
    words = [word for word in _WORD.finditer(question) if word[0].islower()]
    rng = _random(question, seed)
    chosen = rng.sample(words, min(len(words), 1 + len(question) // _LETTERS_PER_TYPO))
    letters = list(question)
    for word in chosen:
        places = [at for at in range(word.start() + 1, word.end() - 2) if letters[at] != letters[at + 1]]
        if places:
            at = rng.choice(places)
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def lower_case(question: str, _: int) -> str:
    """Return a question in lower case, as people type it."""
    return question.lower()


def upper_case(question: str, _: int) -> str:
    """Return a question in capitals."""
    return question.upper()


def paraphrase(question: str, seed: int) -> str:
    """Return an English question in another wording: the first rule that applies, else a frame around it.

    A question that begins with no English word of questions stays as it is. Source: the invariance tests of CheckList (https://aclanthology.org/2020.acl-main.442).
    """
    if not _ENGLISH.match(question):
        return question
    for pattern, wording in _RULES:
        changed = pattern.sub(wording, question, count=1)
        if changed != question:
            return changed
    return _random(question, seed).choice(_FRAMES).format(question)


REWORDINGS: Final[Mapping[str, Callable[[str, int], str]]] = {
    "typos": typos,
    "lower_case": lower_case,
    "upper_case": upper_case,
    "paraphrase": paraphrase,
}
"""Ways to ask the same, by name; a question that one leaves as it is has no such wording."""
