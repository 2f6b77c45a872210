"""Progress of a dataset's build: a bar or a line for each stage, with rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from llamafarm_ray.cli.terminal import clock

if TYPE_CHECKING:
    from llamafarm_ray.cli.terminal import StageProgress
    from llamafarm_ray.data.report import Stage

__all__ = ["BuildProgress"]

_MIN_ELAPSED_S = 0.5


class BuildProgress:
    """Shows each stage of a build with its progress, its rate, and the time left.

    On a terminal a stage has a bar. Elsewhere it has a line at its end, and one every ten seconds until then.

    Args:
        progress: display of the stages.
        now: returns a time in seconds.
    """

    def __init__(self, progress: StageProgress, now: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._now = now
        self._stage: Stage | None = None
        self._began_s = 0.0
        self._done_before = 0
        self._is_over = False

    def __call__(self, stage: Stage) -> None:
        """Show where the build is."""
        if self._stage is None or stage.name != self._stage.name:
            self._end()
            self._began_s, self._done_before, self._is_over = self._now(), stage.done, False
        self._stage = stage
        text = self._words(stage)
        self._progress(stage.name, stage.fraction, text)
        if stage.total is not None and stage.done >= stage.total:
            self._end()
        else:
            self._progress.line(f"{stage.name}: {text}")

    def _end(self) -> None:
        """Print the line of a stage that is over, once."""
        if self._stage is None or self._is_over:
            return
        self._is_over = True
        elapsed_s = self._now() - self._began_s
        unit = self._stage.unit.removesuffix("s") if self._stage.done == 1 else self._stage.unit
        parts = [f"{self._stage.done:,} {unit} in {elapsed_s:.1f} s"]
        rate = self._rate(self._stage)
        parts += [] if rate is None else [_rate_words(rate)]
        self._progress.line(f"{self._stage.name}: {', '.join(parts)}", at_once=True)

    def _words(self, stage: Stage) -> str:
        of_all = "" if stage.total is None else f" of {stage.total:,}"
        parts = [f"{stage.done:,}{of_all} {stage.unit}"]
        rate = self._rate(stage)
        if rate is not None:
            parts.append(_rate_words(rate))
            if stage.total is not None and stage.done < stage.total:
                parts.append(f"{clock((stage.total - stage.done) / rate)} left")
        return ", ".join(parts)

    def _rate(self, stage: Stage) -> float | None:
        """Return the rate in units a second, without an earlier attempt's work; None if it is too early to say."""
        done, elapsed_s = stage.done - self._done_before, self._now() - self._began_s
        return done / elapsed_s if done > 0 and elapsed_s >= _MIN_ELAPSED_S else None


def _rate_words(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"  # where a digit more says something
