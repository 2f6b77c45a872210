"""Run the tiers of `make test`, print the time of each and the slowest tests, and exit with 1 if any of them failed.

Arguments are passed on to each tier's pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "runs" / "tests"
TIERS = {"unit": ("-n", "auto", "--dist", "loadfile"), "integration": ("-n", "2"), "e2e": ()}
"""In this order, with pytest's options. Two tiers at a time take longer: each computes more than it waits, and their
engines are bound to the same core. One process runs the tests of a file, so that what they share is made once; of
integration, one runs all files of the deployment, see its conftest.py."""
NUM_SLOWEST = 10
IN_MEMORY = ("unit", "integration")
"""Tiers whose tests have their folders in memory: each commit of a registry waits for a disk six times."""
MEMORY = Path("/dev/shm")  # noqa: S108
ROOM_BYTES = 6 * 2**30
"""Free memory from which on tests have their folders there."""


@dataclass
class Tier:
    """A run of pytest over one folder of tests."""

    name: str
    returncode: int
    seconds: float

    @property
    def results(self) -> Path:
        """pytest's report in JUnit's format."""
        return RESULTS / f"{self.name}.xml"

    def cases(self) -> list[ET.Element]:
        """The tests that ran."""
        return list(ET.parse(self.results).iter("testcase")) if self.results.exists() else []  # noqa: S314  (pytest's)


def run(name: str, arguments: list[str]) -> Tier:
    """Run a tier."""
    (RESULTS / f"{name}.xml").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"tests/{name}", "-m", "not long and not gpu", *TIERS[name]]
    command += [f"--junitxml={RESULTS / name}.xml", *arguments]
    variables = temporary_folders() if name in IN_MEMORY else {}
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False)
    return Tier(name, done.returncode, time.monotonic() - started)


def temporary_folders() -> dict[str, str]:
    """Return the variable that puts tests' folders into memory, where there is room and no other place is set."""
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.access(MEMORY, os.W_OK):
        return {}
    if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:  # tests make programs and run them; containers forbid it there
        return {}
    free = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    return {"PYTEST_DEBUG_TEMPROOT": str(MEMORY)} if free >= ROOM_BYTES else {}


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
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each process, and Ray has many, compiles what it imports
    started = time.monotonic()
    tiers = [run(name, arguments) for name in TIERS]
    summarize(tiers, time.monotonic() - started)
    return int(any(tier.returncode for tier in tiers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
