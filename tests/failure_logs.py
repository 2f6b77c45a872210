"""Logs that a failed test leaves: of Ray, Serve and the engine, as far as they were written while it ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["watch"]

KEPT = Path(__file__).parents[1] / "runs" / "failed-tests"
_MOST_BYTES = 4 * 2**20
_watched: list[Path] = []


def watch(folder: Path) -> None:
    """Add a folder, such as that of a Ray session: its log files belong to whichever test runs."""
    _watched.append(folder)


def _files() -> Iterator[tuple[Path, Path]]:
    """Return each log file below a watched folder, with the folder."""
    for folder in _watched:
        for pattern in ("*.log", "*.out", "*.err", "*.cfg"):
            for path in folder.rglob(pattern):
                if path.is_file() and not path.is_symlink() and "session_latest" not in path.parts:
                    yield folder, path


def _sizes() -> dict[Path, int]:
    return {path: path.stat().st_size for _, path in _files()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note how long each log is before a test begins."""
    item.stash[_BEFORE] = _sizes()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what was written to the logs since, where the test failed, and name the folder in its report."""
    report = yield
    if report.failed and (kept := _keep(item)):
        report.sections.append(("logs of this test", str(kept)))
    return report


_BEFORE: pytest.StashKey[dict[Path, int]] = pytest.StashKey()


def _keep(item: pytest.Item) -> Path | None:
    before, folder = item.stash[_BEFORE], KEPT / re.sub(r"[^\w.-]+", "-", item.nodeid)[-180:]
    found = False
    for watched, path in _files():
        start, end = before.get(path, 0), path.stat().st_size
        if end <= start:
            continue
        with path.open("rb") as file:
            file.seek(max(start, end - _MOST_BYTES))
            target = folder / watched.name / path.relative_to(watched)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read())
            found = True
    return folder if found else None
