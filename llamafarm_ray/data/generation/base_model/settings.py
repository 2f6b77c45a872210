"""Settings that decide the pairs of a base model. They import no torch, so that planning stays quick."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Sampling", "Study"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings that decide the pairs.

    Args:
        fact_samples: proposals of a fact for each text.
        question_samples: questions for each fact.
        temperature: of both.
        min_score: least sum of two mean log-probabilities: of the question, and of finding the fact with it.
        phrasings: most questions kept for a fact.
        seed: of the random numbers.
    """

    fact_samples: int = 8
    question_samples: int = 12
    temperature: float = 0.75
    min_score: float = -0.9
    phrasings: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """Settings of learning; chosen by the share of good questions on documents that are in no lesson.

    Args:
        epochs: passes over the lessons.
        learning_rate: highest rate; it warms up for five steps, then falls to zero in a line.
        rank: of the update.
        tokens_per_step: most tokens of a step, padding included.
    """

    epochs: int = 2
    learning_rate: float = 1e-3
    rank: int = 16
    tokens_per_step: int = 1500
