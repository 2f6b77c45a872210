"""View of a rollout for people who watch: the step, both variants, and the evidence against each guard."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llamafarm_ray.cli.terminal import ago, console, drawn_facts, drawn_table, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from llamafarm_ray.registry import RolloutRecord
    from llamafarm_ray.serving.rollouts.progress import GuardProgress, RolloutProgress, VariantProgress

__all__ = ["rollout_view"]

_BAR = 20
"""Columns of a bar."""
_NEAR, _NEARER = 0.5, 0.8
"""From these shares of what would break a guard on its bar warns."""
_QUIET_S = 10.0
"""For so long there may be no request before that is said."""
_OF_VARIANTS = ("variant", "version", "requests", "errors", "", "p95 latency", "rating", "ratings")
_OF_GUARDS = ("guard", "now", "limit", "of what would roll it back")


def rollout_view(record: RolloutRecord, progress: RolloutProgress | None, now: dt.datetime) -> RenderableType:
    """A rollout in tables that fit 80 columns.

    Args:
        progress: its controller's report; ``None`` without one.
    """
    from rich.console import Group

    parts: list[RenderableType] = [drawn_facts(record.id, list(_facts(record, progress, now)))]
    if progress is not None:
        variants = [
            ("baseline", record.baseline, progress.baseline),
            ("candidate", record.candidate, progress.candidate),
        ]
        rows = [(name, version, *_variant(seen)) for name, version, seen in variants]
        parts.append(drawn_table("", _OF_VARIANTS, rows, drop_empty=True, whole=_OF_VARIANTS))
        if progress.guards:
            parts.append(drawn_table("", _OF_GUARDS, [_guard(one) for one in progress.guards], whole=_OF_GUARDS))
    return Group(*parts)


def _facts(
    record: RolloutRecord, progress: RolloutProgress | None, now: dt.datetime
) -> Iterator[tuple[str, str | Text]]:
    from llamafarm_ray.registry import RolloutStatus

    newest, plan = record.changes[-1], record.plan
    yield "rollout", f"{plan.kind.replace('_', '-')} from {record.baseline} to {record.candidate}"
    why = f": {newest.reason}" if newest.reason else ""
    yield "status", f"{record.status.words}, since {ago(newest.time, now)} by {newest.principal}{why}"
    if not record.status.is_under_way:
        return
    copies = "copies of " if plan.kind == "shadow" else ""
    yield "step", f"{record.step + 1} of {len(record.steps)}: {copies}{record.percent:g} % of the requests"
    yield from _time(record, now)
    if progress is None:
        return
    if plan.kind == "ab":
        yield from _comparison(progress, plan.min_requests)
        in_all = progress.baseline.requests + progress.candidate.requests
        yield "requests", _part(in_all, plan.max_requests)
    else:
        yield "requests", _part(progress.step_requests, plan.min_requests)
    if record.status is RolloutStatus.RUNNING:
        yield "next", progress.next
    quiet_s = (now - progress.until).total_seconds()
    if quiet_s > _QUIET_S:
        yield "quiet", f"no request was seen for {_clock(int(quiet_s))}"


def _time(record: RolloutRecord, now: dt.datetime) -> Iterator[tuple[str, Text]]:
    from llamafarm_ray.workflows.deployments.rollout_progress import lasted_s

    dwell_s = record.steps[record.step].dwell_s
    if dwell_s:
        lasted = lasted_s(record, now)
        yield "time", _with_bar(lasted / dwell_s, f"{_clock(int(lasted))} of {_clock(int(dwell_s))}")


def _comparison(progress: RolloutProgress, min_requests: int) -> Iterator[tuple[str, str | Text]]:
    found = progress.comparison
    if found is None:
        return
    metric = found.metric.replace("_", " ")
    if found.leader:
        sure = f"{found.leader} by {metric}, {_percent(found.sureness, 1)} sure (needs {100 * found.needed:g} %)"
        yield "winner", _with_bar(found.sureness / found.needed if found.needed else 0.0, sure)
    else:
        yield "winner", f"neither by {metric} so far"
    if found.difference is not None and found.low is not None and found.high is not None:
        more = f"; about {found.more_needed:,} more would decide it" if found.more_needed is not None else ""
        yield "verdict", f"{found.verdict}: {found.difference:+.3g} ({found.low:+.3g} to {found.high:+.3g}){more}"
    yield "measured", _with_bar(found.measured / min_requests, f"{found.measured:,} of each, {min_requests:,} at least")


def _variant(seen: VariantProgress) -> tuple[str, ...]:
    latency_s = seen.p95_latency_s
    return (
        f"{seen.requests:,}",
        f"{seen.errors:,}",
        _percent(seen.errors / seen.requests, 2) if seen.requests else "",
        "" if latency_s is None else f"{latency_s * 1000:,.0f} ms",
        "" if seen.mean_rating is None else f"{seen.mean_rating:.2f}",
        f"{seen.ratings:,}" if seen.ratings else "",
    )


def _guard(guard: GuardProgress) -> tuple[str | Text, ...]:
    def shown(value: float | None) -> str:
        return _percent(value, 2) if value is not None and guard.name.endswith("rate") else number(value)

    style = "red" if guard.share >= _NEARER else "yellow" if guard.share >= _NEAR else "green"
    return guard.name, shown(guard.measured), shown(guard.limit), _with_bar(guard.share, _percent(guard.share), style)


def _part(count: int, wanted: int) -> Text:
    return _with_bar(count / wanted, f"{count:,} of {wanted:,}")


def _percent(share: float, digits: int = 0) -> str:
    return f"{share * 100:.{digits}f} %"


def _with_bar(share: float, text: str, style: str = "cyan") -> Text:
    """Return a bar with its label."""
    from rich.text import Text

    full, empty = "#-" if console.options.ascii_only else "━─"
    filled = round(min(1.0, max(0.0, share)) * _BAR)
    return Text.assemble((full * filled, style), (empty * (_BAR - filled), "dim"), f" {text}")


def _clock(seconds: int) -> str:
    """A length of time that ticks: ``0:45``, ``12:03``, ``1:02:03``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
