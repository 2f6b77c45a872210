"""Dataset numbers: near duplicates beside a bare loop over rensa, in one run on one core.

Run ``make bench BENCH=datasets``; with ``ARGS=--quick`` to see that it works. The last line is one JSON object:
``{"benchmark": "datasets", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import rensa

from llamafarm_ray.data.quality.near_duplicates import jaccard, near_duplicates

WORDS_A_DOCUMENT = 100
THRESHOLD = 0.8
HASHES = 112
BANDS = 16


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    documents: int = 20_000
    planted: int = 1_000
    rounds: int = 3


QUICK = Scale(documents=2_000, planted=100, rounds=1)


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_least(self, name: str, measured: float, goal: float, unit: str) -> None:
        met = measured >= goal
        self.numbers[name] = {"measured": round(measured, 4), "goal": f"at least {goal:g} {unit}", "met": met}
        print(f"{name:<46} {measured:>10.5g} {unit:<9} goal: at least {goal:g}   {'met' if met else 'NOT MET'}")


@dataclass(frozen=True)
class Corpus:
    """Documents of random words, with planted near duplicates at the end: the i-th is a copy of document i."""

    texts: Sequence[str]
    num_originals: int


def corpus(scale: Scale) -> Corpus:
    """Return documents of 100 words each; a planted copy is as similar as the threshold, or hardly more."""
    source = random.Random(11)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(30_000)]
    originals = [" ".join(source.choices(words, k=WORDS_A_DOCUMENT)) + "." for _ in range(scale.documents)]
    copies = [_edited(source, words, original) for original in originals[: scale.planted]]
    return Corpus([*originals, *copies, *originals[: scale.planted // 10]], len(originals))


def _edited(source: random.Random, words: Sequence[str], original: str) -> str:
    changed, best = original.split(), original
    for place in source.sample(range(len(changed)), len(changed)):
        changed[place] = source.choice(words)
        if jaccard(original, " ".join(changed)) < THRESHOLD:
            break
        best = " ".join(changed)
    return best


def bare_rensa(texts: Sequence[str]) -> list[bool]:
    """Return whether each text is like an earlier one: rensa's classes in the loop that its README shows."""
    index = rensa.RMinHashLSH(THRESHOLD, HASHES, BANDS)
    sketches: list[Any] = []
    flags: list[bool] = []
    for number, text in enumerate(texts):
        words = text.lower().split()
        sketch = rensa.RMinHash(HASHES, 1)
        sketch.update(list(map(" ".join, zip(words, words[1:], words[2:], strict=False))))
        flags.append(any(sketches[other].jaccard(sketch) >= THRESHOLD for other in index.query(sketch)))
        index.insert(number, sketch)
        sketches.append(sketch)
    return flags


def per_second(work: Callable[[], object], count: int, rounds: int) -> float:
    """Return documents a CPU second, the median of some rounds."""
    rates = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        rates.append(count / (time.process_time() - start))
    return statistics.median(rates)


def measure_near_duplicates(report: Report, scale: Scale) -> None:
    """Speed alone and beside rensa; recall and precision on planted copies."""
    documents = corpus(scale)
    texts = documents.texts
    ours = per_second(lambda: near_duplicates(texts, threshold=THRESHOLD), len(texts), scale.rounds)
    bare = per_second(lambda: bare_rensa(texts), len(texts), scale.rounds)
    report.at_least("near duplicates, one core", ours, 15_000, "docs/s")
    report.at_least("near duplicates beside a bare rensa loop", ours / bare, 0.7, "x")
    dropped = near_duplicates(texts, threshold=THRESHOLD)
    planted = range(documents.num_originals, len(texts))
    found = sum(index in dropped for index in planted)
    report.at_least("recall of planted copies at 0.8", found / len(planted), 0.95, "")
    right = sum(jaccard(texts[index], texts[kept]) >= THRESHOLD for index, kept in dropped.items())
    report.at_least("precision", right / max(1, len(dropped)), 0.95, "")
    left = [text for index, text in enumerate(texts) if index not in dropped]
    report.at_least("share of distinct texts among those left", len(set(left)) / len(left), 1.0, "")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few documents")
    scale = QUICK if parser.parse_args().quick else Scale()
    report = Report()
    measure_near_duplicates(report, scale)
    print(json.dumps({"benchmark": "datasets", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
