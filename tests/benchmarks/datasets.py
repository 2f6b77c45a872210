"""Dataset numbers: near duplicates beside a bare loop over rensa, and whole builds with their time and memory.

Run ``make bench BENCH=datasets``; with ``ARGS=--quick`` to see that it works, with ``ARGS="--only near small"`` for
parts of it. The last line is one JSON object:
``{"benchmark": "datasets", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
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
    built: int = 50_000
    growth: int = 10


QUICK = Scale(documents=2_000, planted=100, rounds=1, built=500, growth=2)
SMALL_BUILD = 31
MIB = 1024 * 1024


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at_least(self, name: str, measured: float, goal: float, unit: str) -> None:
        met = measured >= goal
        self.numbers[name] = {"measured": round(measured, 4), "goal": f"at least {goal:g} {unit}", "met": met}
        print(f"{name:<46} {measured:>10.5g} {unit:<9} goal: at least {goal:g}   {'met' if met else 'NOT MET'}")

    def at_most(self, name: str, measured: float, goal: float, unit: str) -> None:
        met = measured <= goal
        self.numbers[name] = {"measured": round(measured, 4), "goal": f"at most {goal:g} {unit}", "met": met}
        print(f"{name:<46} {measured:>10.5g} {unit:<9} goal: at most {goal:g}   {'met' if met else 'NOT MET'}")

    def told(self, name: str, measured: float, unit: str) -> None:
        self.numbers[name] = {"measured": round(measured, 4), "goal": "none", "met": True}
        print(f"{name:<46} {measured:>10.5g} {unit}")


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


@dataclass(frozen=True)
class Build:
    """A build of a dataset: wall-clock seconds, and the largest memory of all its processes, Ray's too, in MiB."""

    seconds: float
    mib: float


def build(source: Path, output: Path, **settings: object) -> Build:
    """Run ``create-dataset`` with a Ray of its own."""
    command = [sys.executable, "-m", "llamafarm_ray", "models", "create-dataset", "--source", str(source)]
    options = [part for key, value in settings.items() for part in ("--set", f"dataset.{key}={json.dumps(value)}")]
    environment = {**os.environ, "LLAMAFARM_HOME": str(output.with_name(f"{output.name}.home"))}
    environment.pop("RAY_ADDRESS", None)
    start, most = time.monotonic(), 0.0
    with subprocess.Popen([*command, "--output", str(output), *options], env=environment) as process:
        while process.poll() is None:
            most = max(most, _mib_of(psutil.Process(process.pid)))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"The build of {source} failed.")
    return Build(time.monotonic() - start, most)


def _mib_of(process: psutil.Process) -> float:
    """Return the memory of a process and all below it; what several share is divided among them."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
    return total / MIB


def write_documents(folder: Path, count: int) -> None:
    """Write documents of 100 words, a thousand a folder."""
    source = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(30_000)]
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(source.choices(words, k=WORDS_A_DOCUMENT)).capitalize() + ".\n")


def measure_small_build(report: Report, _: Scale) -> None:
    """The build that somebody tries first: a few documents, rules, and a Ray that starts for it."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "docs")
        source.mkdir()
        for number in range(SMALL_BUILD):
            text = f"# Mill {number}\n\nThe mill of village {number} opens at {8 + number % 4}:00 on weekdays.\n"
            (source / f"{number}.md").write_text(text)
        found = build(source, Path(name, "out"), **{"preprocessing.qa_generation.model": "rules"})
    report.at_most(f"build of {SMALL_BUILD} documents by rules", found.seconds, 8, "s")


def measure_builds(report: Report, scale: Scale) -> None:
    """Documents read, filtered, compared with all others and written, and the memory of ten times as many."""
    texts = {"preprocessing.qa_generation.enabled": False, "quality_control.validation.near_duplicate_threshold": 0.8}
    builds = []
    with tempfile.TemporaryDirectory() as name:
        for count in (scale.built, scale.built * scale.growth):
            source = Path(name, f"docs-{count}")
            write_documents(source, count)
            builds.append(build(source, Path(name, f"out-{count}"), **texts))
            report.told(f"documents a second of a build of {count:,}", count / builds[-1].seconds, "docs/s")
    few, many = builds
    report.at_most(f"memory of the build of {scale.built * scale.growth:,}", many.mib, 2048, "MiB")
    report.at_most(f"the same beside that of {scale.built:,}", many.mib / few.mib, 1.1, "x")


PARTS: dict[str, Callable[[Report, Scale], None]] = {
    "near": measure_near_duplicates,
    "small": measure_small_build,
    "builds": measure_builds,
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few documents")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="parts to measure")
    asked = parser.parse_args()
    report = Report()
    for name in asked.only:
        PARTS[name](report, QUICK if asked.quick else Scale())
    print(json.dumps({"benchmark": "datasets", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
