"""``--go-on FILE``: leave out the tests that passed in an earlier run, which was stopped or in which others failed."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--go-on",
        type=Path,
        metavar="FILE",
        help="leave out the tests that FILE names, add those that pass; it goes once all have passed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Count what passes, in the one process that reports."""
    path: Path | None = config.getoption("--go-on")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(PassedBefore(path, is_cut=bool(config.option.keyword)), "passed-before")


class PassedBefore:
    """A file of the tests that have passed, one id a line.

    Args:
        path: the file's; it is made when the first test passes.
        is_cut: True if this run has some of the tests only, so that others may remain when all of them have passed.
    """

    def __init__(self, path: Path, *, is_cut: bool) -> None:
        self._path = path
        self._is_cut = is_cut
        self._passed = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
        self._failed: set[str] = set()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what has passed."""
        rest = [item for item in items if item.nodeid not in self._passed]
        if left_out := [item for item in items if item.nodeid in self._passed]:
            config.hook.pytest_deselected(items=left_out)
            print(f"\n{len(left_out)} passed in an earlier run; without {self._path} all of them run.")  # noqa: T201
            items[:] = rest

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a test when it has passed and its fixtures are gone."""
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "teardown" and report.nodeid not in self._failed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{report.nodeid}\n")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Forget them when nothing is left to run."""
        if exitstatus == pytest.ExitCode.OK and not self._is_cut:
            self._path.unlink(missing_ok=True)
