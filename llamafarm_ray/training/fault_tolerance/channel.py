"""Channel between driver and workers during a run: steps, signs of life, orders to end.

``ray.train.report`` is a barrier between all workers that takes more than a second, so it is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import ray

from llamafarm_ray.errors import LlamaFarmError, TrainingError
from llamafarm_ray.training.result import Progress

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["Beat", "Order", "ProgressChannel", "ProgressReporter", "Stall"]

_SILENT_S = 30.0
"""After so long without a sign of life a worker counts as lost. Its process or its machine stands still."""
_MISSED_S = 10.0
"""Five signs of life in a row that did not come: where training stands still, the others wait for this worker."""
_UNHEARD_S = 120.0
"""Seconds from the first worker's start to the last one's: imports from a cold network disk take their time."""
_LEAST_STALL_S = 30.0
_STALL_STEPS = 20
_SLOW_S = 900.0
"""Seconds for work of unknown length: loading, the first steps (which compile), a checkpoint."""
_MAX_VAIN_STARTS = 3
_START_S = 45.0
"""Seconds that workers may take to start before a message says that they have not."""


Order = Literal["go on", "stop", "end"]
"""Order to a worker: go on, stop after its step, or end its process at once."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's sign of life.

    Args:
        where: its process and machine, for people.
        doing: its activity, for people.
        quiet_s: seconds since it last got on.
        usual_s: seconds that getting on takes usually; None where there is nothing to compare with.
        is_stepping: True if it takes steps now, which have a usual length, known yet or not.
        longest_s: the longest step of this start, which is mostly the first: it compiles and allocates.
    """

    rank: int
    where: str
    doing: str
    step: int
    quiet_s: float
    usual_s: float | None
    is_stepping: bool = True
    longest_s: float = 0.0


@dataclass(slots=True)
class Stall:
    """Decides from signs of life whether a run stands still. Times are in seconds, from any clock that only goes on.

    Args:
        num_workers: number of workers that give them.
        earlier_s: the longest step of the starts before this one; it bounds the first steps, which nothing else does.
        beats: the last of each, with when it came.
    """

    num_workers: int = 0
    started: float = 0.0
    earlier_s: float | None = None
    beats: dict[int, tuple[float, Beat]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps that the furthest worker has done."""
        return max((beat.step for _, beat in self.beats.values()), default=0)

    @property
    def longest_s(self) -> float | None:
        """The longest step of this start and those before it; None if there was none."""
        return max((beat.longest_s for _, beat in self.beats.values()), default=0.0) or self.earlier_s

    def note(self, beat: Beat, now: float) -> None:
        """Take a sign of life that came at ``now``."""
        self.beats[beat.rank] = (now, beat)

    def problem(self, now: float) -> str:
        """Return the problem at ``now``; empty if there is none."""
        if silent := self._silent(now, _SILENT_S):
            return silent
        unheard = sorted(set(range(self.num_workers)) - self.beats.keys())
        if unheard and now - self.started > _UNHEARD_S:
            return f"Worker {unheard[0]} has given no sign of life since it started {now - self.started:.0f} s ago."
        for came, beat in self.beats.values():
            usual = beat.usual_s
            if usual is not None:
                limit = max(_LEAST_STALL_S, _STALL_STEPS * usual)
            elif beat.is_stepping and self.earlier_s is not None:
                limit = min(_SLOW_S, max(_LEAST_STALL_S, 2 * self.earlier_s))
            else:
                limit = _SLOW_S
            quiet = beat.quiet_s + now - came
            if quiet > limit:
                if silent := self._silent(now, _MISSED_S):
                    return silent
                each = "; ".join(
                    f"worker {rank} ({one.where}) is {one.doing}, after step {one.step}"
                    for rank, (_, one) in sorted(self.beats.items())
                )
                usually = f" (a step takes {usual:.1f} s)" if usual is not None else ""
                return f"Training has stood still for {quiet:.0f} s{usually}: {each}."
        return ""

    def _silent(self, now: float, seconds: float) -> str:
        """Return the worker without a sign of life for that long; empty if there is none."""
        for came, beat in self.beats.values():
            if now - came > seconds:
                return f"Worker {beat.rank} ({beat.where}) has given no sign of life for {now - came:.0f} s."
        return ""


class ProgressChannel:
    """A mailbox; made an actor by the driver, and held in the hand by tests.

    Args:
        clock: seconds that only go on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: list[Progress] = []
        self._failure: LlamaFarmError | None = None
        self._stopped = False
        self._stall = Stall()
        self._attempt = 0
        self._ended_attempt = -1
        self._stalled_at = -1
        self._furthest = -1
        self._vain_starts = 0
        self._waiting_since: float | None = clock()
        self._notes: list[str] = []
        self._worker_s = 0.0
        self._counted_at: float | None = None

    def put(self, steps: list[Progress]) -> None:
        """Leave steps for the driver."""
        self._steps += steps

    def take(self) -> tuple[list[Progress], list[str], float]:
        """The steps, what else there is to say, and the seconds of workers, since the last call."""
        steps, self._steps = self._steps, []
        notes, self._notes = self._notes, []
        self._count_workers()
        worker_s, self._worker_s = self._worker_s, 0.0
        return steps, notes, worker_s

    def _count_workers(self) -> None:
        """Add the time since the last count, if workers ran."""
        now = self._clock()
        if self._counted_at is not None:
            self._worker_s += self._stall.num_workers * (now - self._counted_at)
            self._counted_at = now

    def stop(self) -> bool:
        """Ask the workers to stop after a step. Returns whether there are any."""
        self._stopped = True
        return self._attempt > max(0, self._ended_attempt)

    def begin(self, num_workers: int) -> int:
        """So many workers start, or start again. Returns the attempt's number."""
        self._attempt += 1
        self._waiting_since = None
        self._count_workers()
        self._counted_at = self._clock()
        self._stall = Stall(num_workers, self._clock(), self._stall.longest_s)
        return self._attempt

    def restored(self, step: int) -> None:
        """The workers have read the state after ``step`` steps and go on from there."""
        if step > self._furthest:
            self._furthest, self._vain_starts = step, 0
        if self._attempt > 1:
            self._notes.append(f"The workers were started again; training goes on after step {step}.")

    def lost(self) -> LlamaFarmError | None:
        """The workers have ended, one of them at least by an error. Returns why not to start them again, if so."""
        self._vain_starts += 1
        self._count_workers()
        self._counted_at = None
        self._ended_attempt = self._attempt  # who is left of it ends, and nobody waits for signs of it
        self._waiting_since = self._clock()
        if self._vain_starts > _MAX_VAIN_STARTS:
            where = f"after step {self._furthest}" if self._furthest > 0 else "before the first checkpoint"
            self.fail(
                TrainingError(
                    f"The workers were lost {self._vain_starts} times in a row {where}.",
                    hint="Out of memory? Lower fine_tuning.training.batch_size; the logs say more.",
                )
            )
        return self._failure

    def beat(self, attempt: int, beat: Beat) -> Order:
        """Take a sign of life. Returns what the worker shall do."""
        if attempt == self._attempt:
            self._stall.note(beat, self._clock())
            self._end_if_still()
        if attempt <= self._ended_attempt:
            return "end"
        return "stop" if self._stopped else "go on"

    def look(self) -> None:
        """Look for workers that stand still; the driver calls it, for the case that no sign of life comes at all."""
        now = self._clock()
        if self._waiting_since is not None and now - self._waiting_since > _START_S:
            self._waiting_since = None
            self._notes.append(
                f"The workers have not started for {_START_S:.0f} s: the cluster has no room for them now, or is slow."
            )
        self._end_if_still()

    def _end_if_still(self) -> None:
        problem = self._stall.problem(self._clock())
        if not problem or self._ended_attempt == self._attempt:
            return
        self._ended_attempt = self._attempt
        self._notes.append(problem)
        if self._stall.step <= self._stalled_at:
            self.fail(TrainingError(problem, hint="The last checkpoint stays; the same command goes on from it."))
        self._stalled_at = self._stall.step

    def fail(self, error: LlamaFarmError) -> None:
        """Record why the run can't succeed, however often it is tried. The first reason stands."""
        self._failure = self._failure or error

    def failure(self) -> LlamaFarmError | None:
        """Failure recorded by `fail`."""
        return self._failure


class ProgressReporter:
    """Rank 0's end of the channel: collects steps and sends them every ``interval_s`` seconds.

    Args:
        channel: handle of a `ProgressChannel` actor.
        interval_s: seconds that steps are held back.
    """

    def __init__(self, channel: ActorHandle, interval_s: float) -> None:
        self._channel = channel
        self._interval_s = interval_s
        self._held: list[Progress] = []
        self._sent_at = time.monotonic()
        self._answer: object = None

    def step(self, progress: Progress) -> None:
        """Note a step, and send what has gathered when it is time."""
        self._held.append(progress)
        if time.monotonic() - self._sent_at >= self._interval_s:
            self._send()

    def flush(self) -> None:
        """Send the rest and wait until it has arrived."""
        self._send()
        ray.get(self._answer)

    def _send(self) -> None:
        self._answer = self._channel.put.remote(self._held)
        self._held = []
        self._sent_at = time.monotonic()
