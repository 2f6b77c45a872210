"""A run on the terminal: what is drawn at 80 and 120 columns, and what is printed where there is no terminal."""

import io
import math
from dataclasses import fields
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.training import train
from llamafarm_ray.cli.training.train import loss_line, show_result, sparkline, speed_line
from llamafarm_ray.training.result import Progress, TrainingResult
from llamafarm_ray.types import ModelKind

TOTAL = 1_000_000


def progress(step, loss=1.234, **changes):
    return Progress(step, TOTAL, 2, loss, 1.5e-4, 123.456, 1_234_567.0, 2.0 * step, **changes)


class Screen(io.StringIO):
    def __init__(self, *, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


def console(width, *, is_terminal=True):
    screen = Screen(is_terminal=is_terminal)
    return Console(
        file=screen, width=width, force_terminal=is_terminal, highlight=False, soft_wrap=True, emoji=False,
        color_system=None,
    )  # fmt: skip


def drawn(bars, on):
    with on.capture() as captured:
        on.print(bars.get_renderable())
    return captured.get().rstrip("\n").splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_long_run_fits_its_terminal(width, monkeypatch):
    screen = console(width)
    monkeypatch.setattr(terminal, "_error_console", screen)
    bars = terminal.stage_bars(screen)
    step = loss_line(terminal.StageProgress(bars))
    for number in range(500_000, 500_200):
        step(progress(number, loss=3 - number / 500_200, memory_bytes=123 * 10**9, mfu=0.4567))
    lines = drawn(bars, screen)
    assert len(lines) == 3
    assert max(len(line.rstrip()) for line in lines) <= width
    text = "\n".join(lines)
    for part in (
        "50%",
        "277:40:02 left",
        "step 500,199/1,000,000, epoch 3",
        "█",
        "▁",
        "1,234,567 tok/s",
        "123 GB",
        "46%",
    ):
        assert part in text
    assert "…" not in text


def test_nothing_is_said_of_the_time_left_before_a_second_step(monkeypatch):
    screen = console(80)
    monkeypatch.setattr(terminal, "_error_console", screen)
    bars = terminal.stage_bars(screen)
    step = loss_line(terminal.StageProgress(bars))
    step(progress(1))
    assert "left" not in "\n".join(drawn(bars, screen))
    step(progress(2))
    assert "left" in "\n".join(drawn(bars, screen))


def test_the_lines_below_the_bars_go_when_the_stage_is_done(monkeypatch):
    screen = console(80)
    monkeypatch.setattr(terminal, "_error_console", screen)
    bars = terminal.stage_bars(screen)
    stage = terminal.StageProgress(bars)
    loss_line(stage)(progress(1))
    assert len(drawn(bars, screen)) == 3
    stage.finish()
    assert len(drawn(bars, screen)) == 1


def test_alerts_stay_above_the_bars(monkeypatch):
    screen = console(80)
    monkeypatch.setattr(terminal, "_error_console", screen)
    step = loss_line(terminal.StageProgress(terminal.stage_bars(screen)))
    step(progress(7, alerts=("The loss rose to 2 [limit 1].\x1b[2J",)))
    assert "step 7: The loss rose to 2 [limit 1].\N{REPLACEMENT CHARACTER}[2J" in screen.file.getvalue()


def test_without_a_terminal_there_is_a_line_now_and_then_and_none_where_json_is_asked_for(monkeypatch):
    screen = console(80, is_terminal=False)
    monkeypatch.setattr(terminal, "_error_console", screen)
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.stages() as stage:
        step = loss_line(stage)
        for number in range(1, 26):
            now[0] = float(number)
            step(progress(number))
    said = screen.file.getvalue().splitlines()
    assert [line.split(",")[0] for line in said] == ["step 10/1", "step 20/1"]
    assert all("loss 1.234" in line and "tok/s" in line for line in said)
    with terminal.stages(quiet=True) as stage:
        now[0] = 1000.0
        loss_line(stage)(progress(1, alerts=("x",)))
    assert screen.file.getvalue().splitlines() == said


def test_what_is_not_known_is_not_said():
    assert speed_line(progress(1)) == "lr 1.50e-04  grad 123  1,234,567 tok/s"
    assert speed_line(progress(1, memory_bytes=10**9, mfu=0.5)).endswith("1 GB  MFU 50%")


@given(
    st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=300), st.integers(min_value=1, max_value=60)
)
def test_a_sparkline_has_its_width_and_falls_where_the_values_fall(values, width):
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    falling = sparkline(sorted(values, reverse=True), width)
    assert all(left >= right for left, right in pairwise(falling))


def test_a_sparkline_leaves_out_what_is_no_number():
    assert sparkline([], 8) == ""
    assert sparkline([math.nan], 8) == ""
    assert sparkline([2.0, math.nan, 1.0], 8) == "█▁"


def result(**changes):
    values = {
        "method": "lora", "kind": ModelKind.ADAPTER, "objective": "sft", "strategy": "ddp", "reasons": ["Because."],
        "num_workers": 2, "precision": "bf16", "num_rows": 11_400, "num_dropped": {"too long": 3}, "num_steps": 1200,
        "num_tokens": 2_280_400, "num_trainable_parameters": 11_272_192, "seconds": 2280.4,
        "losses": [3.5, 2.0, 1.158], "metrics": {"validation_loss": 1.216},
    }  # fmt: skip
    others = {field.name: 1 for field in fields(TrainingResult)}
    return TrainingResult(**{**others, **values, **changes})


def test_a_result_is_told_in_80_columns(monkeypatch, tmp_path):
    screen = console(80)
    monkeypatch.setattr(terminal, "console", screen)
    monkeypatch.setattr(train, "console", screen)
    (tmp_path / "report.html").write_text("")
    show_result(result(), tmp_path)
    lines = screen.file.getvalue().splitlines()
    assert lines[0] == "Trained with lora: ddp, 2 workers, bf16"
    said = {line[2:18].strip(): line[18:].strip() for line in lines[1:7]}
    assert said["loss"].startswith("3.500 → 1.158")
    assert said["validation loss"] == "1.216"
    assert said["steps"] == "1,200 in 0:38:00, 1,000 tok/s"
    assert said["rows"] == "11,400, 3 left out"
    assert said["trained weights"] == "11,272,192"
    assert "".join(lines[6:-1]).replace(" ", "").endswith(f"{tmp_path}/report.html")
    assert lines[-1] == "Because."
    assert all(len(line) <= 80 for line in lines)


def test_a_result_without_validation_or_report_says_nothing_of_them(monkeypatch, tmp_path):
    screen = console(80)
    monkeypatch.setattr(terminal, "console", screen)
    monkeypatch.setattr(train, "console", screen)
    show_result(result(metrics={}, num_workers=1, reasons=[], num_dropped={}), tmp_path)
    text = screen.file.getvalue()
    assert "validation" not in text
    assert "report" not in text
    assert "1 worker," in text
