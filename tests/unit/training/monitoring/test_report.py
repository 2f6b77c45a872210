"""A run's page: whole, small, on its own, and true to the numbers."""

import html
import html.parser
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.training.monitoring.alerts import Alert
from llamafarm_ray.training.monitoring.history import Checkpoint, History, Validation
from llamafarm_ray.training.monitoring.report import RunPage, write_report
from llamafarm_ray.training.monitoring.report.charts import Chart, Curve, draw, thin
from llamafarm_ray.training.monitoring.report.page import compact, memory
from llamafarm_ray.training.result import Progress

VOID = {"meta", "line", "polyline", "circle", "wbr", "br"}


class Outline(html.parser.HTMLParser):
    """Checks that elements close in their order, and collects what there is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def history_of(num_steps, **changes):
    steps = [
        Progress(n, num_steps, 0, 2 + math.sin(n) / 9, 1e-4, 0.5, 90_000.0, n * 2.0, 3 * 2**30, 0.4)
        for n in range(1, num_steps + 1)
    ]
    return History(num_steps, steps, **changes)


def page(history, **changes):
    values = {"name": "bot", "run_id": "run-1", "outcome": "finished", "history": history, **changes}
    return RunPage(**values).html()


def test_a_long_run_makes_a_page_below_300_kb_that_asks_for_nothing_from_outside():
    history = history_of(
        50_000,
        validations=[Validation(n, 2.1) for n in range(100, 50_001, 100)],
        checkpoints=[Checkpoint(n, 1.0) for n in range(100, 50_001, 100)],
        alerts=[Alert("divergence", n, "It diverged.") for n in range(100, 5_000, 100)],
    )
    text = page(history, config={f"key{n}": n for n in range(200)})
    assert len(text.encode()) < 300_000
    outline = Outline(text)
    assert not [attrs for _, attrs in outline.elements if {"src", "href"} & set(attrs)]
    assert "url(" not in text
    assert len([tag for tag, _ in outline.elements if tag == "svg"]) == 6


@pytest.mark.parametrize("num_steps", [0, 1, 2, 29, 31])
def test_short_runs_have_a_page_too(num_steps):
    assert Outline(page(history_of(num_steps)))


def test_numbers_that_are_none_leave_a_gap():
    history = history_of(40)
    history.steps[5] = Progress(6, 40, 0, math.nan, 1e-4, math.inf, 1.0, 12.0)
    history.validations.append(Validation(6, math.nan))
    text = page(history)
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL).lower()


def test_nothing_that_others_wrote_becomes_markup():
    evil = "<script>alert(1)</script>'\""
    history = history_of(40, alerts=[Alert("nan", 3, evil)])
    text = page(
        history, name=evil, run_id=evil, message=evil, reasons=[evil], warnings=[evil], config={evil: evil},
        facts={evil: evil},
    )  # fmt: skip
    assert [tag for tag, _ in Outline(text).elements].count("script") == 1
    assert "alert(1)" in text


def test_the_page_says_what_happened():
    history = history_of(
        40,
        validations=[Validation(20, 2.5), Validation(40, 2.25)],
        checkpoints=[Checkpoint(20, 1.5)],
        alerts=[Alert("loss_threshold", 33, "The loss rose.")],
        attempts=[20],
    )
    said = " ".join(
        Outline(page(history, facts={"dataset_digest": "sha256:abc", "n": 123456}, reasons=["Because."])).text
    )
    for text in (
        "40 / 40", "2.25", "best validation loss", "3 GiB", "40.0%", "90k", "1 min 20 s", "loss threshold",
        "The loss rose.", "Because.", "sha256:abc", "123,456", "Checkpoints written: 1", "from step 20",
    ):  # fmt: skip
        assert text in said, text


def test_a_page_is_written_whole_and_over_an_older_one(tmp_path):
    made = RunPage("a", "1", "finished", history_of(3))
    write_report(tmp_path / "new" / "report.html", made)
    write_report(tmp_path / "new" / "report.html", made)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


POINTS = st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=500)


@given(POINTS, st.integers(min_value=8, max_value=100))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values, most):
    points = [(float(step), value) for step, value in enumerate(values)]
    kept = thin(points, most)
    assert len(kept) <= most or len(points) <= most
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert min(v for _, v in kept) == min(values)
    assert max(v for _, v in kept) == max(values)


@given(POINTS, st.booleans())
def test_every_point_is_inside_the_picture(values, from_zero):
    from_zero = from_zero and min(values) >= 0
    chart = Chart("t", [Curve("c", "plain", [(float(n), v) for n, v in enumerate(values, 1)])], from_zero=from_zero)
    drawn = draw(chart)
    for points in re.findall(r'points="([^"]*)"', drawn):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= chart.width
            assert -0.1 <= y <= chart.height
    said = json.loads(html.unescape(re.search(r'data-hover="([^"]*)"', drawn)[1]))
    assert said[0][0] == "c"
    assert said[0][1][-1][1] == len(values)


def test_a_chart_of_nothing_is_left_out():
    assert draw(Chart("t", [Curve("c", "plain", [])])) == ""
    assert draw(Chart("t", [Curve("c", "plain", [(1.0, math.nan)])])) == ""


def test_amounts_for_people():
    assert [memory(b) for b in (5 * 2**20, 1.5 * 2**30)] == ["5 MiB", "1.5 GiB"]
    assert [compact(v) for v in (0.5, 1234.5, 93_210, 2.5e6, 3e9)] == ["0.5", "1,234", "93.21k", "2.5M", "3G"]
