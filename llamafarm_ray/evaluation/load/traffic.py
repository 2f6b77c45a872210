"""Sessions to send: synthetic ones by a mix of lengths, or from prompts of your own."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.errors import InputError

__all__ = [
    "DEFAULT_LENGTHS",
    "ONE_TURN",
    "LengthClass",
    "Session",
    "SessionShape",
    "Turn",
    "parse_lengths",
    "synthesize",
]

Message = Mapping[str, object]

_WORDS: Final = (
    "the of and to in is that it for as with on be at by this from or which have water farm people level question "
    "answer model data number price order report office letter machine garden river animal season market paper "
    "engine doctor patient invoice account contract delivery customer service request problem reason example"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session.

    Args:
        messages: added to the conversation so far.
        max_tokens: the answer's limit in tokens; None leaves it to the server.
        think_s: seconds between the previous answer and this request; 0 for the first one.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """One user's conversation.

    Args:
        at_s: scheduled time of its first request, in seconds from the start.
        turns: its requests, at least one.
        model: the model to ask; empty for the simulation's.
    """

    at_s: float
    turns: tuple[Turn, ...]
    model: str = ""


@dataclass(frozen=True, slots=True)
class LengthClass:
    """A share of the traffic with prompts and answers of about one length.

    Args:
        share: its weight beside the other classes.
        answer_tokens: mean limit of an answer in tokens.
    """

    share: float
    prompt_words: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class SessionShape:
    """Number of turns of a session, drawn from a range, and the mean time between them."""

    min_turns: int = 1
    max_turns: int = 1
    think_s: float = 2.0


DEFAULT_LENGTHS: Final = (LengthClass(70, 24, 64), LengthClass(25, 120, 128), LengthClass(5, 600, 256))
"""Mostly short questions, some with a document."""
ONE_TURN: Final = SessionShape()


def parse_lengths(text: str) -> tuple[LengthClass, ...]:
    """Read a mix of lengths: ``80%:32/64,20%:500/256`` (share : words of a prompt / tokens of an answer).

    Raises:
        InputError: the text has another form.
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\d{1,3}(?:\.\d{1,3})?)\s*%\s*:)?\s*([1-9]\d{0,5})\s*/\s*([1-9]\d{0,5})\s*", part)
        if match is None:
            raise InputError(
                f"{part.strip()!r} is no class of lengths.",
                hint="Write share:words/tokens, such as 80%:32/64,20%:500/256.",
            )
        found.append(LengthClass(float(match[1] or 100), int(match[2]), int(match[3])))
    if not any(one.share for one in found):
        raise InputError(f"All shares of {text!r} are 0.", hint="Give at least one class a share.")
    return tuple(found)


def synthesize(
    times: Sequence[float],
    *,
    lengths: Sequence[LengthClass],
    shape: SessionShape,
    rng: random.Random,
    prompts: Sequence[str] = (),
) -> list[Session]:
    """Return a session for each arrival time.

    Args:
        times: scheduled starts in seconds.
        lengths: the mix of lengths; a class's lengths vary by up to half of its mean.
        rng: draws everything; the same one gives the same sessions.
        prompts: texts to ask, drawn at random; without them, random words of the mix's lengths.
    """
    return [Session(at_s, _turns(lengths, shape, rng, prompts)) for at_s in times]


def _turns(
    lengths: Sequence[LengthClass], shape: SessionShape, rng: random.Random, prompts: Sequence[str]
) -> tuple[Turn, ...]:
    turns = []
    for number in range(rng.randint(shape.min_turns, shape.max_turns)):
        drawn = rng.choices(lengths, [one.share for one in lengths])[0]
        text = (
            rng.choice(prompts) if prompts else " ".join(rng.choices(_WORDS.split(), k=_vary(drawn.prompt_words, rng)))
        )
        think_s = rng.expovariate(1 / shape.think_s) if number and shape.think_s > 0 else 0.0
        turns.append(Turn(({"role": "user", "content": text},), _vary(drawn.answer_tokens, rng), think_s))
    return tuple(turns)


def _vary(mean: int, rng: random.Random) -> int:
    return rng.randint(math.ceil(mean / 2), max(1, mean + mean // 2))
