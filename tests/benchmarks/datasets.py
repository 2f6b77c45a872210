"""Dataset numbers: near duplicates beside a bare loop over rensa, and whole builds with their time and memory.

Run ``make bench BENCH=datasets``; with ``ARGS=--quick`` to see that it works, with ``ARGS="--only near small"`` for
parts. The part ``beside`` takes ``--datatrove PYTHON``, an interpreter for ``built/datatrove_pipeline.py``; ``pdf``
takes ``--pdftotext PATH`` and ``--documents FOLDER``: PDF files, each beside its source's text. The last line is one
JSON object:
``{"benchmark": "datasets", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pypdfium2
import rensa
from benchmarks.built.documents import WORDS_A_DOCUMENT, write_documents, write_lines

from llamafarm_ray.data.quality.near_duplicates import jaccard, near_duplicates
from llamafarm_ray.data.readers import reader_for

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


TEXTS = {"preprocessing.qa_generation.enabled": False, "quality_control.validation.near_duplicate_threshold": 0.8}
PEER = str(Path(__file__).parent / "built" / "datatrove_pipeline.py")
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


def measure_small_build(report: Report, _: Scale) -> None:
    """The build that somebody tries first: a few documents, and rules."""
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
    builds = []
    with tempfile.TemporaryDirectory() as name:
        for count in (scale.built, scale.built * scale.growth):
            source = Path(name, f"docs-{count}")
            write_documents(source, count)
            builds.append(build(source, Path(name, f"out-{count}"), **TEXTS))
            report.told(f"documents a second of a build of {count:,}", count / builds[-1].seconds, "docs/s")
    few, many = builds
    report.at_most(f"memory of the build of {scale.built * scale.growth:,}", many.mib, 2048, "MiB")
    report.at_most(f"the same beside that of {scale.built:,}", many.mib / few.mib, 1.1, "x")


def measure_beside_datatrove(report: Report, scale: Scale, datatrove: str = "") -> None:
    """The same documents, a file each for us and lines of JSONL for datatrove, which has no reader of texts."""
    if not datatrove:
        print("beside: not measured, since --datatrove names no interpreter that has it")
        return
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        source, lines = Path(name, "docs"), Path(name, "lines")
        write_documents(source, scale.built)
        write_lines(source, lines)
        for number in range(scale.rounds):
            ours.append(build(source, Path(name, f"ours-{number}"), **TEXTS).seconds)
            command = [datatrove, PEER, str(lines), str(Path(name, f"theirs-{number}"))]
            start = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            theirs.append(time.monotonic() - start)
    report.told("documents a second, ours", scale.built / statistics.median(ours), "docs/s")
    report.told("documents a second, datatrove", scale.built / statistics.median(theirs), "docs/s")
    ratio = statistics.median(theirs) / statistics.median(ours)
    report.at_least(f"a build of {scale.built:,} to datatrove's", ratio, 10, "x")


PDF_PAGES = 30
GRAM = 5
MAX_GAP_WORDS = 500
EDGE_LINES = 3
MIN_PAGES_OF_RUNNING = 3


def words_of(text: str) -> list[str]:
    """Return words in small letters; ligatures and accents have one spelling."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def common_words(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by the bits of one number (Hyyr\u00f6's recurrence)."""
    masks: dict[str, int] = {}
    for place, word in enumerate(left):
        masks[word] = masks.get(word, 0) | 1 << place
    full = row = (1 << len(left)) - 1
    for word in right:
        both = row & masks.get(word, 0)
        row = ((row + both) | (row - both)) & full
    return len(left) - row.bit_count()


def window(source: Sequence[str], texts: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the part of a source that some pages hold: the longest stretch in which all share runs of words."""
    runs = [[tuple(words[place : place + GRAM]) for place in range(len(words))] for words in (source, *texts)]
    once = {run for run, count in Counter(runs[0]).items() if count == 1}
    shared = once.intersection(*map(set, runs[1:]))
    stretches: list[list[int]] = [[]]
    for place, run in enumerate(runs[0]):
        if run in shared:
            if stretches[-1] and place - stretches[-1][-1] > MAX_GAP_WORDS:
                stretches.append([])
            stretches[-1].append(place)
    longest = max(stretches, key=len)
    return source[longest[0] : longest[-1] + GRAM] if longest else []


def pages_of(pdf: Path) -> bytes:
    """Return pages from the middle of a document, without its front matter and its index, as a PDF file."""
    with pypdfium2.PdfDocument(pdf) as document, pypdfium2.PdfDocument.new() as sample:
        first = max(0, (len(document) - PDF_PAGES) // 2)
        sample.import_pages(document, list(range(first, min(first + PDF_PAGES, len(document)))))
        written = io.BytesIO()
        sample.save(written)
    return written.getvalue()


def our_text(data: bytes) -> tuple[str, str]:
    """Return the text of a PDF file as our reader has it: with its headings, and the blocks alone."""
    reader = reader_for("a.pdf")
    assert reader is not None
    lines: list[str] = []
    blocks: list[str] = []
    before: tuple[str, ...] = ()
    for section in reader.read(data, "a.pdf").sections:
        lines += [heading for place, heading in enumerate(section.headings) if before[place : place + 1] != (heading,)]
        lines += section.blocks
        blocks += section.blocks
        before = section.headings
    return "\n".join(lines), "\n".join(blocks)


def running_lines(text: str) -> set[str]:
    """Return lines that come back at the edges of pages, their numbers as ``#``; pdftotext ends pages by form feeds."""
    found: Counter[str] = Counter()
    for page in text.split("\f"):
        lines = [" ".join(line.split()) for line in page.splitlines() if line.strip()]
        edges = {*lines[:EDGE_LINES], *lines[-EDGE_LINES:]}
        found.update({re.sub(r"\d+", "#", line) for line in edges})
    return {line for line, count in found.items() if count >= MIN_PAGES_OF_RUNNING and any(map(str.isalpha, line))}


def without_running_lines(text: str, running: set[str]) -> str:
    """Return what pdftotext wrote without headers, footers and page numbers, which are no words of the document."""
    lines = (" ".join(line.split()) for line in re.split(r"[\n\f]", text))
    return "\n".join(line for line in lines if re.sub(r"\d+", "#", line) not in {*running, "#"})


def boilerplate_share(blocks: str, running: set[str]) -> float:
    """Return the share of words that are in running lines, alone or in the middle of a block."""
    text = re.sub(r"\d+", "#", blocks)
    count = sum(text.count(line) * len(line.split()) for line in running if len(line.split()) > 1)
    count += sum(line in running for line in text.splitlines() if len(line.split()) == 1)
    return count / max(1, len(text.split()))


def measure_pdf(report: Report, _: Scale, pdftotext: str = "", documents: str = "") -> None:
    """Words of PDF files that are right and in order, beside pdftotext, by the text that the files were made from."""
    program = shutil.which(pdftotext or "pdftotext")
    pairs = [(pdf, pdf.with_suffix(".txt")) for pdf in sorted(Path(documents).glob("*.pdf"))] if documents else []
    pairs = [(pdf, source) for pdf, source in pairs if source.is_file()]
    if program is None or not pairs:
        missing = "pdftotext is not there (--pdftotext)" if program is None else "--documents has no PDF with its text"
        print(f"The part 'pdf' is left out: {missing}.")
        return
    for pdf, source in pairs:
        data = pages_of(pdf)
        with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
            Path(file.name).write_bytes(data)
            done = subprocess.run([program, file.name, "-"], capture_output=True, check=True)
        theirs = done.stdout.decode(errors="replace")
        ours, blocks = our_text(data)
        running = running_lines(theirs)
        found, peer = words_of(ours), words_of(without_running_lines(theirs, running))
        text = re.sub(r"\[\d{1,3}\]", " ", source.read_text(errors="replace"))  # marks of notes are no words
        wanted = window(words_of(text), (found, peer))
        right, right_of_peer = common_words(found, wanted), common_words(peer, wanted)
        report.told(f"{pdf.stem}: words of the source", len(wanted), "words")
        report.told(f"{pdf.stem}: right words in order, pdftotext", right_of_peer, "words")
        report.at_least(f"{pdf.stem}: right words, ours to pdftotext's", right / max(1, right_of_peer), 1.0, "x")
        report.at_most(f"{pdf.stem}: boilerplate in passages", boilerplate_share(blocks, running), 0.02, "")


PARTS: dict[str, Callable[..., None]] = {
    "near": measure_near_duplicates,
    "small": measure_small_build,
    "builds": measure_builds,
    "beside": measure_beside_datatrove,
    "pdf": measure_pdf,
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few documents")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--built", type=int, default=Scale.built, help="documents of the part builds; then ten times")
    parser.add_argument("--datatrove", default="", help="an interpreter that has datatrove, for the part beside")
    parser.add_argument("--rounds", type=int, default=Scale.rounds, help="rounds in turn")
    parser.add_argument("--pdftotext", default="", help="poppler's program, for the part pdf")
    parser.add_argument("--documents", default="", help="folder of PDF files beside their texts, for the part pdf")
    asked = parser.parse_args()
    report = Report()
    scale = QUICK if asked.quick else Scale(built=asked.built, rounds=asked.rounds)
    peers = {
        "beside": {"datatrove": asked.datatrove},
        "pdf": {"pdftotext": asked.pdftotext, "documents": asked.documents},
    }
    for name in asked.only:
        PARTS[name](report, scale, **peers.get(name, {}))
    print(json.dumps({"benchmark": "datasets", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
