"""The progress of a build: rate and time left on a terminal, and lines elsewhere."""

import io

from rich.console import Console

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.build_progress import BuildProgress
from llamafarm_ray.data.report import Stage


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def shown(monkeypatch, stages, *, is_terminal, seconds_each=4.0):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120, soft_wrap=True, color_system=None)
    monkeypatch.setattr(terminal, "_error_console", console)
    clock = Clock()
    monkeypatch.setattr(terminal.time, "monotonic", clock)
    bars = terminal.stage_bars(console) if is_terminal else None
    told = BuildProgress(terminal.StageProgress(bars, in_lines=not is_terminal), clock)
    for stage in stages:
        told(stage)
        clock.now += seconds_each
    if bars is not None:
        console.print(bars.get_renderable())
    return out.getvalue()


DOCUMENTS = [Stage("documents", "documents", done, 3000) for done in (0, 400, 800, 1200, 1600)]


def test_a_bar_says_count_rate_and_time_left(monkeypatch):
    text = shown(monkeypatch, DOCUMENTS, is_terminal=True)
    assert "documents" in text
    assert "53%" in text
    assert "1,600 of 3,000 documents, 100/s, 0:00:14 left" in text


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end_of_each_stage(monkeypatch):
    stages = [
        *DOCUMENTS,
        Stage("documents", "documents", 3000, 3000),
        Stage("examples", "examples", 0, None),
        Stage("examples", "examples", 50, None),
        Stage("write", "rows", 1, 1),
    ]
    assert shown(monkeypatch, stages, is_terminal=False).splitlines() == [
        "documents: 1,200 of 3,000 documents, 100/s, 0:00:18 left",
        "documents: 3,000 documents in 20.0 s, 150/s",
        "examples: 50 examples in 8.0 s, 6.2/s",
        "write: 1 row in 0.0 s",
    ]


def test_what_an_earlier_attempt_did_is_no_speed_of_this_one(monkeypatch):
    stages = [Stage("pairs", "passages", done, 500) for done in (400, 404, 408, 412)]
    text = shown(monkeypatch, stages, is_terminal=False)
    assert text.splitlines() == ["pairs: 412 of 500 passages, 1/s, 0:01:28 left"]
