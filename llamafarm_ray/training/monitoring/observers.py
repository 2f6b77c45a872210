"""Observers of a run: trackers, alerts, the history and the report.

The driver chooses and checks, the first worker owns one `Observers`. Nothing here makes a step wait, and nothing
but an error of the run's own ends it. The calls, in their order::

    # Driver, before any worker starts. Raises UserError: a package or a secret is missing.
    settings = ObserverSettings.of(config, run_id=..., facts={**lineage, "method": ..., ...}, reasons=reasons)

    # First worker. `steps_done` is 0, or the step of the checkpoint that it goes on from.
    observers = Observers.open(settings, folder=job.folder.output, total_steps=job.num_steps,
                               steps_done=state.step, flops=ModelFlops.of(model, ...))
    try:
        for each step:
            seen = observers.step(progress)
            channel.put(seen.progress)              # with memory, MFU and alerts filled in
            if seen.stop: ...                       # a sentence; tell all ranks, save, finish as if steps had ended
        seen = observers.validation(loss, step)     # seen.stop as above
        observers.checkpoint(step, seconds)         # one is written
        observers.beat()                            # in long work that ends no step: loading, saving, validating
        observers.finish({"num_trainable_parameters": ...})
    except LlamaFarmError:
        observers.fail()                            # only where the run will not be tried again
        raise
    finally:
        observers.close()                           # always; after neither finish nor fail, another attempt goes on

    # Driver, once all attempts have ended and the run did not: whoever saw the failure, only the driver tells of it.
    record_failure(settings, folder=job.folder.output, total_steps=job.num_steps, error=error)
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from llamafarm_ray.config import Monitoring
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.training.monitoring.alerts import Alert, Delivery, Limits, Notice, RunWatch
from llamafarm_ray.training.monitoring.background import Background
from llamafarm_ray.training.monitoring.flops import ModelFlops
from llamafarm_ray.training.monitoring.history import Checkpoint, History, Validation, entry, open_lines, step_entry
from llamafarm_ray.training.monitoring.listeners import RunListeners
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings
from llamafarm_ray.training.monitoring.report import write_report
from llamafarm_ray.training.monitoring.run_meters import Devices, peak_memory_bytes
from llamafarm_ray.training.monitoring.tracking import Ending, Outcome, Record, RunInfo, Tracker, record_of
from llamafarm_ray.training.result import Progress

__all__ = ["HISTORY_FILE", "REPORT_FILE", "Observers", "Seen"]

HISTORY_FILE: Final = "history.jsonl"
REPORT_FILE: Final = "report.html"


@dataclass(frozen=True, slots=True)
class Seen:
    """Result of observing a step.

    Args:
        progress: the step with memory, MFU and alerts filled in; None for a validation.
        stop: reason for an early end, as configured; None if it goes on. Stays once it is set.
    """

    progress: Progress | None
    stop: str | None


class Observers:
    """Everything that looks on, as the first worker owns it; see the module for who calls what.

    Args:
        settings: decisions of the driver.
        folder: folder for files.
        history: history of earlier attempts, and the id they recorded under.
        steps_done: the step that this attempt goes on from.
        flops: for MFU; None where it isn't known.
    """

    def __init__(
        self,
        settings: ObserverSettings,
        *,
        folder: Path,
        history: History,
        steps_done: int,
        flops: ModelFlops | None,
        devices: Devices,
    ) -> None:
        self._settings = settings
        self._listeners = RunListeners.open(settings.name, history, devices, steps_done, settings.traces)
        self._folder = folder
        self._history = history
        self._flops = flops
        self._lock = threading.RLock()
        self._news: list[str] = []  # for people, since the last step
        self._num_old_warnings = len(history.warnings)
        self._stop: str | None = None
        self._is_closed = False
        self._step = steps_done
        self._watch = _rebuilt_watch(settings.monitoring, history)
        self._delivery = Delivery(settings.destinations.channels(), warn=self._warn)
        self._lines: Background[Mapping[str, object]] = Background(
            "The run's history",
            lambda: open_lines(
                folder / HISTORY_FILE, keep=lambda one: steps_done > 0 and one.get("step", 0) <= steps_done
            ),
            timeout_s=settings.timeout_s,
            give_up=self._warn,
        )
        self._lines.put({"event": "run", "id": history.run_id})
        info = RunInfo(settings.name, history.run_id, folder, steps_done, settings.config, settings.facts)
        self._trackers = [self._open_tracker(name, opener) for name, opener in settings.trackers.openers(info).items()]
        if steps_done:
            history.attempts.append(steps_done)
            self._lines.put({"event": "resume", "step": steps_done})
        self._last_beat = time.monotonic()
        self._ended = threading.Event()
        self._start_watchdog(settings.monitoring.alerting.stall_s)

    @classmethod
    def open(
        cls,
        settings: ObserverSettings,
        *,
        folder: Path,
        total_steps: int,
        steps_done: int = 0,
        flops: ModelFlops | None = None,
        devices: Devices = Devices(),  # noqa: B008 - frozen
    ) -> Self:
        """Start to observe, or continue an earlier attempt. It waits for no server.

        Args:
            settings: decisions of the driver.
            folder: the run's output, where ``history.jsonl``, ``report.html``, ``tensorboard`` and ``wandb`` go.
            total_steps: optimizer steps of the run.
            steps_done: of these, done by earlier attempts; what those wrote beyond it is void.
            flops: cost of a token and peak of the devices; None where they aren't known, as on CPU.
        """
        # A run that is begun anew is another one, though its settings be the same.
        history, problem = History(total_steps, run_id=f"{settings.run_id}-{uuid.uuid4().hex[:6]}"), ""
        if steps_done:
            try:
                history = History.read(folder / HISTORY_FILE, total_steps=total_steps, steps_done=steps_done)
                history.run_id = history.run_id or settings.run_id
            except (OSError, ValueError, TypeError, KeyError) as error:
                problem = f"The history of earlier attempts can't be read: {first_line(error)}."
        made = cls(settings, folder=folder, history=history, steps_done=steps_done, flops=flops, devices=devices)
        if problem:
            made._warn(problem)
        return made

    def step(self, progress: Progress) -> Seen:
        """A step is done."""
        mfu = self._flops.utilisation(progress.tokens_per_s) if self._flops else None
        progress = replace(progress, memory_bytes=peak_memory_bytes(), mfu=mfu)
        with self._lock:
            self._step = progress.step
            self._live()
            self._history.steps.append(progress)
            self._listeners.step(progress)
            self._lines.put(step_entry(progress))
            self._record(record_of(progress))
            self._raise_alerts(self._watch.step(progress.step, progress.loss))
            if self._news:
                progress, self._news = replace(progress, alerts=tuple(self._news)), []
            return Seen(progress, self._stop)

    def validation(self, loss: float, step: int) -> Seen:
        """The mean loss over the validation rows, after a step."""
        with self._lock:
            self._live()
            done = Validation(step, loss)
            self._history.validations.append(done)
            self._listeners.validation(loss, step)
            self._lines.put(entry("validation", done))
            self._record(Record(step, {"validation/loss": loss} if loss - loss == 0 else {}))
            self._raise_alerts(self._watch.quality(step, "validation loss", loss))
            return Seen(None, self._stop)

    def checkpoint(self, step: int, seconds: float) -> None:
        """A checkpoint is written."""
        with self._lock:
            self._live()
            done = Checkpoint(step, seconds)
            self._history.checkpoints.append(done)
            self._listeners.checkpoint(step, seconds)
            self._lines.put(entry("checkpoint", done))

    def beat(self) -> None:
        """The run is alive, though no step has ended."""
        with self._lock:
            self._live()

    def finish(self, facts: Mapping[str, object] | None = None) -> None:
        """The run has succeeded, or ended early as asked. Waits a bounded time for what is on its way.

        Args:
            facts: present facts, for trackers and the report.
        """
        self._end("stopped" if self._stop else "finished", facts or {}, self._stop or "")

    def fail(self) -> None:
        """The run has failed and won't be tried again: trackers are told, people by the driver's `record_failure`.

        Waits a bounded time for what is on its way.
        """
        self._end("failed", {}, "")

    def close(self) -> None:
        """Let go. Nothing is marked as ended where neither `finish` nor `fail` was called."""
        self._end("interrupted", {}, "")

    def _end(self, outcome: Outcome, facts: Mapping[str, object], message: str) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._ended.set()
        self._listeners.close()
        ending = Ending(outcome, facts)
        for tracker in self._trackers:
            tracker.put(ending)
            tracker.close()
        self._delivery.close()
        for text in self._history.warnings[self._num_old_warnings :]:
            self._lines.put({"event": "warning", "text": text})
        self._lines.close()
        # All end at the same time, so the slowest one bounds the wait.
        deadline = time.monotonic() + self._settings.timeout_s
        for tracker in self._trackers:
            tracker.join(max(0.0, deadline - time.monotonic()))
        self._lines.join(max(0.0, deadline - time.monotonic()))
        self._delivery.join(max(0.0, deadline - time.monotonic()))
        if outcome in {"finished", "stopped"}:
            self._write_report(outcome, facts, message)

    def _write_report(self, outcome: Outcome, facts: Mapping[str, object], message: str) -> None:
        page = self._settings.page(self._history, outcome, message, facts)
        try:
            write_report(self._folder / REPORT_FILE, page)
        except OSError as error:
            self._warn(f"The report could not be written: {first_line(error)}.")

    def _open_tracker(self, name: str, opener: Callable[[], Tracker]) -> Background[Record | Ending]:
        def start() -> Callable[[Sequence[Record | Ending]], None]:
            tracker = opener()

            def consume(items: Sequence[Record | Ending]) -> None:
                if records := [item for item in items if isinstance(item, Record)]:
                    tracker.log(records)
                for item in items:
                    if isinstance(item, Ending):
                        tracker.close(item)

            return consume

        return Background(name, start, timeout_s=self._settings.timeout_s, give_up=self._warn)

    def _record(self, record: Record) -> None:
        for tracker in self._trackers:
            tracker.put(record)

    def _live(self) -> None:
        self._last_beat = time.monotonic()
        self._listeners.moved()
        self._watch.idle(self._step, 0.0, 1.0)  # clears a stall

    def _raise_alerts(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            stops = alert.kind in self._settings.monitoring.alerting.stop_kinds
            if stops and self._stop is None:
                self._stop = f"Stopped early after step {self._step}: {alert.text}"
            self._history.alerts.append(alert)
            self._listeners.alert(alert.kind)
            self._lines.put(entry("alert", alert))
            self._news.append(alert.text)
            self._delivery.send(Notice(alert, self._settings.name, self._history.run_id, stops))

    def _warn(self, text: str) -> None:
        with self._lock:
            self._history.warnings.append(text)
            self._news.append(text)
        sys.stderr.write(f"{text}\n")  # the worker's log

    def _start_watchdog(self, stall_s: float | None) -> None:
        if stall_s is None:
            return

        def watch() -> None:
            while not self._ended.wait(min(5.0, stall_s / 4)):
                with self._lock:
                    idle_s = time.monotonic() - self._last_beat
                    self._raise_alerts(self._watch.idle(self._step, idle_s, stall_s))

        threading.Thread(target=watch, name="llamafarm-watchdog", daemon=True).start()


def _rebuilt_watch(monitoring: Monitoring, history: History) -> RunWatch:
    """A watch that has seen what earlier attempts did, and does not raise their alerts again."""
    watch = RunWatch(Limits.of(monitoring.alerting))
    events = [(step.step, 0, step.loss) for step in history.steps]
    events += [(done.step, 1, done.loss) for done in history.validations]
    for step, is_validation, loss in sorted(events):
        if is_validation:
            watch.quality(step, "validation loss", loss)
        else:
            watch.step(step, loss)
    return watch
