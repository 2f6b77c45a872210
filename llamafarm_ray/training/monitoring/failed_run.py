"""The report of a failed run, written once, by the driver, wherever and whenever the run failed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.training.monitoring.alerts import Alert, AlertKind, Delivery, Notice
from llamafarm_ray.training.monitoring.history import History, append_lines, entry
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings
from llamafarm_ray.training.monitoring.observers import HISTORY_FILE, REPORT_FILE
from llamafarm_ray.training.monitoring.report import write_report

__all__ = ["record_failure"]

_NOT_FINITE: Final = re.compile(r" is (nan|-?inf)\b")


def record_failure(settings: ObserverSettings, *, folder: Path, total_steps: int, error: BaseException) -> list[str]:
    """Send a failure as an alert, add it to the run's history and write the report.

    To be called when no worker writes to the folder any more. Takes a bounded time, and raises nothing: the caller gets
    the error itself and logs it, so the log is no destination here.

    Args:
        settings: decisions of the driver.
        folder: the run's output, where ``history.jsonl`` and ``report.html`` go.
        error: the failure; an alert of kind ``nan`` if it is the first to report a number that is not finite, else
            ``failure``.

    Returns:
        Alerts that could not be sent and files that could not be written, a sentence each.
    """
    problems: list[str] = []
    try:
        history = History.read(folder / HISTORY_FILE, total_steps=total_steps)
    except (OSError, ValueError, TypeError, KeyError) as problem:
        problems.append(f"The run's history can't be read: {first_line(problem)}.")
        history = History(total_steps)
    history.run_id = history.run_id or settings.run_id
    is_known = any(alert.kind == "nan" for alert in history.alerts)
    text = str(error) or type(error).__name__
    kind: AlertKind = "nan" if _NOT_FINITE.search(text) and not is_known else "failure"
    alert = Alert(kind, history.last_step, f"The run failed: {text}")
    history.alerts.append(alert)

    delivery = Delivery(settings.destinations.channels(log=False), warn=problems.append)
    delivery.send(Notice(alert, settings.name, history.run_id))
    delivery.close()
    delivery.join(settings.timeout_s)
    history.warnings += problems
    try:
        append_lines(folder / HISTORY_FILE, [entry("alert", alert)])
        write_report(folder / REPORT_FILE, settings.page(history, "failed", text))
    except OSError as problem:
        problems.append(f"The report could not be written: {first_line(problem)}.")
    return problems
