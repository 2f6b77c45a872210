"""Variety of pairs: personas and difficulties, spread over the passages by their digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.text import text_digest

__all__ = ["Variety"]

_MEANINGS = {
    "easy": "asks for one fact that is said in so many words",
    "medium": "needs two facts together",
    "hard": "needs a conclusion, a comparison or a calculation from several facts",
}


@dataclass(frozen=True, slots=True)
class Variety:
    """People to write as, and a mix of difficulties.

    Args:
        personas: one is taken for each passage; none: nobody in particular.
        difficulty: weights by level, in the order of the levels; none: the model's own mix.
    """

    personas: tuple[str, ...] = ()
    difficulty: tuple[tuple[str, float], ...] = ()

    def persona_of(self, passage: Passage) -> str:
        """Return the persona that asks about a passage; "" without one."""
        return self.personas[int(_share(passage, "persona") * len(self.personas))] if self.personas else ""

    def mix(self, passage: Passage, num_items: int) -> Mapping[str, int]:
        """Return how many of the elements have each level; over many passages these are the weights."""
        total = sum(weight for _, weight in self.difficulty)
        offset, counts = _share(passage, "difficulty"), Counter[str]()
        for item in range(num_items if self.difficulty else 0):
            place = (item + offset) / num_items * total
            counts[self._level(place)] += 1
        return {level: counts[level] for level, _ in self.difficulty if counts[level]}

    def _level(self, place: float) -> str:
        """Return the level at a place on the line of all weights, one after another."""
        for level, weight in self.difficulty:
            place -= weight
            if place < 0:
                return level
        return self.difficulty[-1][0]

    def sentences(self, passage: Passage, num_items: int) -> Iterator[str]:
        """Yield the sentences of a prompt that ask for all this."""
        persona = self.persona_of(passage)
        if persona:
            yield f"Write as this person would ask: {persona}."
        mix = self.mix(passage, num_items)
        if mix:
            listed = ", ".join(f"{count} {level} ({_MEANINGS[level]})" for level, count in mix.items())
            yield f"Of these, write {listed}, and name the level of each as its difficulty."

    @property
    def fields(self) -> Mapping[str, object]:
        """Schema of the field that an answer has for it."""
        levels = [level for level, _ in self.difficulty]
        return {"difficulty": {"type": "string", "enum": levels}} if levels else {}


def _share(passage: Passage, of: str) -> float:
    """Return a number from 0 to 1 that a passage alone decides."""
    return int(text_digest([of, passage.document, str(passage.index)])[:13], 16) / 16**13
