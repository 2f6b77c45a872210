"""Other wordings of English questions by safe rules: contractions and courtesies."""

from __future__ import annotations

import random
import re

__all__ = ["reworded"]

_CONTRACTIONS = (
    (re.compile(r"^(What|Who|Where|When|How) is\b"), r"\1's"),
    (re.compile(r"\b(do|does|did|is|are|was|were) not\b"), r"\1n't"),
)
_FRAMES = (
    "I have a question: {}",
    "Quick question: {}",
    "{} Thanks!",
    "Can you help me with this? {}",
    "Hello, {}",
    "{} I could not find it.",
)


def reworded(question: str, chance: random.Random) -> str:
    """Return a question in other words; the frame is chosen, contractions are made where they can be.

    Args:
        question: one sentence in English.
        chance: chooses the frame.
    """
    short = question
    for pattern, replacement in _CONTRACTIONS:
        short = pattern.sub(replacement, short, count=1)
    if short != question and chance.random() < 0.5:  # each half
        return short
    frame = chance.choice(_FRAMES)
    return frame.format(_begun_small(short) if frame.startswith("Hello") else short)


def _begun_small(question: str) -> str:
    """Return a question with a small first letter, if it begins with a question word."""
    first = re.match(r"(?:What|Who|Where|When|Which|How|Why|Do|Does|Did|Is|Are|Can|May|Could)\b", question)
    return question[:1].lower() + question[1:] if first else question
