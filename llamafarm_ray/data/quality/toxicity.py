"""Toxicity: a score by word list, offline, and a slot for a stronger model.

The list holds insults, threats and obscenities of English, with a few of German, French and Spanish. It is blind to
what is said politely, in other languages or between the lines: give ``toxicity_model`` where that matters.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator

from llamafarm_ray.data.rows import Example
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.errors import InputError

__all__ = ["DropToxic", "load_scorer", "toxicity"]

Scorer = Callable[[str], float]

_INSULT = (
    r"(?:you|you're|(?:you|they) are|(?:he|she) is) (?:an? |all )?(?:complete |total |utter |bloody |worthless )?"
    r"(?:idiots?|morons?|imbeciles?|stupid|pathetic|worthless|disgusting|scum|trash|losers?)"
)
# A match adds its weight: the score is one minus the product of what each leaves.
_WEIGHTS = {
    0.9: (
        r"(?:i(?:'| wi)ll|i'?m going to|gonna) (?:kill|hurt|rape|beat|shoot|stab) (?:you|him|her|them)",
        r"kill yourself|kys|go die|you (?:should|deserve to) die|gas the \w+",
        r"n[i1]gg(?:er|a)s?|f[a@]gg?ots?|k[i1]kes?|sp[i1]cs|ch[i1]nks|tr[a@]nn(?:y|ies)",
        r"(?:all|those|these) \w+ (?:are|should be) (?:vermin|subhuman|exterminated|killed)",
    ),
    0.6: (
        r"f+u+c+k+(?:er|ers|ing|ed|s)?|motherf\w+|cunts?|assholes?|arseholes?|bitch(?:es)?|whores?|sluts?",
        r"retard(?:ed|s)|bastards?|wankers?|twats?|dickheads?|shitheads?|douchebags?",
        r"arschl(?:och|\u00f6cher)|wichser|fotze|hurensohn|connards?|salopes?|encul\u00e9s?|putas?|pendejos?|gilipollas",
    ),
    0.5: (
        _INSULT,
        r"shut up|piss off|drop dead|(?:i|we) hate (?:you|them|those \w+)",
    ),
    0.3: (r"sh[i1]t(?:s|ty|ting)?|bullshit|crap(?:py)?|piss(?:ed)?|schei\u00dfe|merde|mierda|idiots?|morons?",),
}
_PATTERNS = [
    (weight, re.compile(rf"(?i)(?<![\w@/.-])(?:{'|'.join(words)})(?![\w@]|\.\w)")) for weight, words in _WEIGHTS.items()
]


def toxicity(text: str) -> float:
    """Return how toxic ``text`` is by the word list, 0.0 to 1.0; repetition counts twice at most."""
    clean = 1.0
    for weight, pattern in _PATTERNS:
        matches = {match[0].lower() for match in pattern.finditer(text)}
        clean *= (1 - weight) ** min(2, len(matches))
    return 1 - clean


@functools.cache
def load_scorer(name: str | None) -> Scorer:
    """Return the function ``module:name``, from a text to 0.0 ... 1.0; the word list for None.

    Raises:
        InputError: there is no such function.
    """
    if name is None:
        return toxicity
    module, _, attribute = name.partition(":")
    try:
        scorer: Scorer = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"dataset.quality_control.toxicity_model: {name!r} can't be loaded ({error}).",
            hint="Name a function as module:function, in a module that can be imported on each node.",
        ) from error
    return scorer


class DropToxic(Step[Example, Example]):
    """Drops examples of which a turn is more toxic than ``threshold``.

    Args:
        threshold: most that stays, 0 to 1.
        model: see :func:`load_scorer`.
    """

    name = "check_toxicity"

    def __init__(self, threshold: float, model: str | None = None) -> None:
        self.threshold = threshold
        self.model = model

    def apply(self, rows: Iterable[Example]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`."""
        score = load_scorer(self.model)
        for row in rows:
            if max((score(message.content) for message in row.messages), default=0.0) > self.threshold:
                yield Dropped("toxic", sample=row.answer or row.question)
            else:
                yield row
