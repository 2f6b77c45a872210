"""A sweep's page and words: what was found, without a network and whatever the trials did."""

import math
import re
from html.parser import HTMLParser

import pytest

from llamafarm_ray.tuning.automl import automatic_space
from llamafarm_ray.tuning.explain import explain
from llamafarm_ray.tuning.journal import Record, State, best_of
from llamafarm_ray.tuning.report import SweepPage, write_page

SPACE = automatic_space(methods=["lora", "full"], linear_modules=["q_proj", "v_proj"], num_rows=500)
RATE = "fine_tuning.training.learning_rate"


def record(number, value, state=State.FINISHED, **changes):
    values = dict(SPACE.first[number % 3].values) | changes
    if values["fine_tuning.method"] == "full":
        values = {key: one for key, one in values.items() if "parameters" not in key}
    points = {point: value + 1 / point for point in range(1, 4)} if value is not None else {}
    return Record(number, values, state, points, value if state is State.FINISHED else None, seconds=12.0)


def trials():
    found = [
        record(0, 1.3),
        record(1, 1.1, **{RATE: 4e-4}),
        record(2, 1.2, **{"fine_tuning.method": "full"}),
        record(3, 2.0, State.STOPPED, **{RATE: 2e-5}),
        record(4, None, State.FAILED),
        record(5, None, State.RUNNING),
        record(6, None, State.INVALID),
    ]
    found[0].why = "the usual settings, briefly"
    found[4].reason = "<b>out of memory</b>"
    return {one.number: one for one in found}


def page(records, name="bot", lower_is_better=True):
    ranked = best_of(records, lower_is_better=lower_is_better)
    words = explain(list(records.values()), ranked, SPACE.domains, metric="validation_loss")
    return SweepPage(
        name, "validation_loss", lower_is_better, SPACE.domains, list(records.values()), ranked, words, SPACE.reasons
    )


class Tags(HTMLParser):
    """Counts tags, and fails on one that is closed in another order than it was opened."""

    def __init__(self):
        super().__init__()
        self.opened = []
        self.count = {}

    def handle_starttag(self, tag, attrs):
        del attrs
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag != "meta":
            self.opened.append(tag)

    def handle_startendtag(self, tag, attrs):
        del attrs
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag


def test_the_page_is_whole_safe_small_and_loads_nothing(tmp_path):
    write_page(tmp_path / "report.html", page(trials(), name="<script>bot"))
    text = (tmp_path / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.opened == []
    assert tags.count["svg"] == 3
    assert "<script" not in text
    assert "<b>out of memory" not in text
    assert not re.search(r"(src|href)=|url\(|https?://", text)
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 300_000


def test_a_thousand_trials_still_make_a_small_page():
    many = {n: record(n, 1 + math.sin(n), **{RATE: 2e-5 * 1.004**n}) for n in range(1000)}
    assert len(page(many).html()) < 300_000 * 2  # the bound is for the sweeps that people run
    assert len(page({n: many[n] for n in range(300)}).html()) < 300_000


def test_the_best_is_first_in_the_table_and_the_words():
    shown = page(trials())
    assert shown.ranked[0].number == 1
    assert "Trial 1 is the best: validation loss 1.1, before trial 2 with 1.2." in shown.words
    assert any("With the usual settings, briefly (trial 0) it was 1.3" in word for word in shown.words)
    rows = re.findall(r"<tr[^>]*><td>(\d+)</td>", shown.html())
    assert rows == ["1", "2", "0", "5", "3", "4", "6"]


def test_where_more_is_better_the_highest_is_the_best():
    assert [one.number for one in best_of(trials(), lower_is_better=False)] == [0, 2, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_a_sweep_that_has_hardly_begun_has_a_page_too(count):
    few = {number: one for number, one in trials().items() if number < count}
    assert "<svg" not in page(few).html()


def test_the_automatic_space_tries_the_usual_first_and_leaves_alone_what_the_user_set():
    taken = automatic_space(methods=["lora"], linear_modules=["query"], num_rows=50_000, taken=[RATE])
    assert RATE not in taken.domains
    assert "fine_tuning.parameters.target_modules" not in taken.domains, "no q_proj here"
    assert max(taken.domains["fine_tuning.training.epochs"].values) == 2
    passes = automatic_space(methods=["lora"], linear_modules=[], num_rows=440, passes=4)
    assert passes.domains["fine_tuning.training.epochs"].values == (1.0, 2.0)
    for suggestion in SPACE.first:
        for key, value in suggestion.values.items():
            domain = SPACE.domains[key]
            assert value in domain.values if domain.is_list else domain.values[0] <= value <= domain.values[1]
