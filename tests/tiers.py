"""Run the tiers of `make test`, print the time of each and the slowest tests, and exit with 1 if any of them failed.

Arguments are passed on to each tier's pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "runs" / "tests"
STEPS = (("unit",), ("integration", "e2e"))
"""The tiers that run at the same time: two of them wait for processes of theirs to start, and share the cores."""
OPTIONS = {"unit": ("-n", "auto")}
NUM_SLOWEST = 10


@dataclass
class Tier:
    """A run of pytest over one folder of tests."""

    name: str
    process: subprocess.Popen[bytes]
    started: float
    seconds: float = 0.0

    @property
    def results(self) -> Path:
        """pytest's report in JUnit's format."""
        return RESULTS / f"{self.name}.xml"

    @property
    def output(self) -> Path:
        """What pytest printed, unless it went to the terminal."""
        return RESULTS / f"{self.name}.log"

    def cases(self) -> list[ET.Element]:
        """The tests that ran."""
        return list(ET.parse(self.results).iter("testcase")) if self.results.exists() else []  # noqa: S314  (pytest's)


def start(name: str, arguments: list[str], *, on_terminal: bool) -> Tier:
    """Start a tier; only one at a time writes to the terminal."""
    (RESULTS / f"{name}.xml").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"tests/{name}", "-m", "not long and not gpu"]
    command += [*OPTIONS.get(name, ()), f"--junitxml={RESULTS / name}.xml", *arguments]
    with (RESULTS / f"{name}.log").open("wb") as log:
        output = None if on_terminal else log
        return Tier(name, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output), time.monotonic())


def run(names: tuple[str, ...], arguments: list[str]) -> list[Tier]:
    """Run tiers at the same time; the output of all but the first is printed when it has ended."""
    tiers = [start(name, arguments, on_terminal=name == names[0]) for name in names]
    waiting = list(tiers)
    while waiting:
        for tier in waiting:
            if tier.process.poll() is not None:
                tier.seconds = time.monotonic() - tier.started
        waiting = [tier for tier in waiting if tier.process.poll() is None]
        time.sleep(0.2)
    for tier in tiers[1:]:
        print(tier.output.read_text(encoding="utf-8", errors="replace"), flush=True)
    return tiers


def minutes(seconds: float) -> str:
    """Return a duration as people say it."""
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def summarize(tiers: list[Tier], seconds: float) -> None:
    """Print the tests and the time of each tier, the slowest tests, and the sum."""
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    print(f"\n{'tier':14}{'tests':>7}{'time':>9}")
    for tier in tiers:
        print(f"{tier.name:14}{len(tier.cases()):>7,}{minutes(tier.seconds):>9}")
        for case in tier.cases():
            kinds = {child.tag for child in case}
            counts["failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"] += 1
    print(f"{'all':14}{sum(counts.values()):>7,}{minutes(seconds):>9}\n\nThe slowest, with the fixtures made for them:")
    cases = [(float(case.get("time", 0)), case) for tier in tiers for case in tier.cases()]
    for took, case in sorted(cases, key=lambda pair: -pair[0])[:NUM_SLOWEST]:
        print(f"{took:7.1f} s  {str(case.get('classname')).removeprefix('tests.')}::{case.get('name')}")
    print("\n" + ", ".join(f"{number} {what}" for what, number in counts.items()))


def main(arguments: list[str]) -> int:
    """Run all tiers, though an earlier one failed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    started, tiers = time.monotonic(), []
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each process, and Ray has many, compiles what it imports
    for names in STEPS:
        tiers += run(names, arguments)
    summarize(tiers, time.monotonic() - started)
    return int(any(tier.process.returncode for tier in tiers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
