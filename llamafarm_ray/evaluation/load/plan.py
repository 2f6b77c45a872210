"""Plan of a simulation: the traffic, without the server it goes to."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.evaluation.benchmarks.digests import digest_of
from llamafarm_ray.evaluation.load.arrivals import Pattern, arrivals
from llamafarm_ray.evaluation.load.replay import read_prompts, read_replay
from llamafarm_ray.evaluation.load.traffic import (
    DEFAULT_LENGTHS,
    ONE_TURN,
    LengthClass,
    Session,
    SessionShape,
    synthesize,
)
from llamafarm_ray.types import Digest

__all__ = ["Replay", "Traffic"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Synthetic traffic.

    Args:
        rate: sessions that begin per second, on average.
        duration_s: time in which sessions begin.
        pattern: distribution of their beginnings.
        prompts: file with texts to ask; without it random words.
        seed: the same seed gives the same traffic.
    """

    rate: float
    duration_s: float
    pattern: Pattern = "poisson"
    lengths: tuple[LengthClass, ...] = DEFAULT_LENGTHS
    shape: SessionShape = ONE_TURN
    prompts: Path | None = None
    seed: int = 0

    def sessions(self) -> list[Session]:
        """Return the sessions to send.

        Raises:
            InputError: the rate, the duration or the file of prompts is unusable.
        """
        rng = random.Random(self.seed)
        times = arrivals(self.pattern, self.rate, self.duration_s, rng)
        texts = read_prompts(self.prompts) if self.prompts is not None else []
        return synthesize(times, lengths=self.lengths, shape=self.shape, rng=rng, prompts=texts)

    @property
    def digest(self) -> Digest:
        """Digest of the traffic: plans with the same digest send the same."""
        texts = Digest.of(self.prompts.read_bytes()) if self.prompts is not None else None
        return digest_of({**self.to_dict(), "prompts": texts})

    def to_dict(self) -> dict[str, object]:
        """Return the plan for JSON."""
        return {
            "pattern": self.pattern,
            "rate": self.rate,
            "duration_s": self.duration_s,
            "lengths": [f"{one.share:g}%:{one.prompt_words}/{one.answer_tokens}" for one in self.lengths],
            "turns": [self.shape.min_turns, self.shape.max_turns],
            "think_s": self.shape.think_s,
            "prompts": str(self.prompts) if self.prompts else None,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Replay:
    """Recorded traffic, ``speed`` times as fast."""

    path: Path
    speed: float = 1.0

    def sessions(self) -> list[Session]:
        """Return the sessions to send.

        Raises:
            InputError: the file is unusable.
        """
        return read_replay(self.path, speed=self.speed)

    @property
    def digest(self) -> Digest:
        """Digest of the traffic: replays with the same digest send the same."""
        return digest_of({"replay": Digest.of(self.path.read_bytes()), "speed": self.speed})

    def to_dict(self) -> dict[str, object]:
        """Return the plan for JSON."""
        return {"replay": str(self.path), "speed": self.speed}
