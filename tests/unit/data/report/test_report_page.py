"""The page of a build: whole, safe, small, and true to the numbers."""

from html.parser import HTMLParser

import pytest

from llamafarm_ray.data.coverage import Coverage
from llamafarm_ray.data.report import (
    BuildReport,
    DocumentCounts,
    Generator,
    Lengths,
    Sample,
    StepReport,
    counting,
    report_page,
)
from llamafarm_ray.data.sources import SkippedDocument
from llamafarm_ray.data.writing import target_for

STEPS = [
    StepReport("clean", 3, 3, {}),
    StepReport("language", 3, 3, {}, {"en": 2, "de": 1}),
    StepReport("check_length", 40, 30, {"answer too short": 10}, {}, {"answer too short": ["Is it? Yes."]}),
    StepReport("deduplicate", 30, 28, {"duplicate": 2}),
    StepReport("near_duplicates", 28, 25, {"near duplicate": 3}),
]


def report(**changes):
    values = {
        "name": "qa", "digest": f"sha256:{'ab' * 32}", "output": "/data/qa", "seed": 7, "created": True,
        "documents": DocumentCounts(4, 3, [SkippedDocument("old.pdf", "it is encrypted.")], {".xyz": 2}),
        "steps": STEPS, "num_train": 22, "num_validation": 3, "held_out": "phrasings",
        "question_chars": Lengths.of([20, 30, 30, 44]), "answer_chars": Lengths.of([5, 9]),
        "samples": [Sample("train", "When does it open?", "At eight.", "a.md")],
        "seconds": {"total": 12.3}, "generator": Generator("base_model", "tiny", "No endpoint is set."),
        "coverage": Coverage(20, 15, {"a.md": [9, 10], "b.pdf": [6, 10], "c.md": [0, 0]}),
        **changes,
    }  # fmt: skip
    return BuildReport(**values)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in {"meta", "line"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        del attrs
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_says_what_the_build_did_and_loads_nothing():
    text = report_page(report())
    page = Page(text)
    assert not {"src", "href"} & set(page.attributes)
    assert "url(" not in text
    said = " ".join(page.text)
    for words in (
        "3 documents read", "1 skipped", "22 rows to train on", "3 held out (phrasings)", "75% of 20 facts are taught",
        "Pairs by base_model (tiny)", "median 30, longest 44", "Sources by type", ".md", ".pdf", "Languages", "de",
        "check length: answer too short", "Is it? Yes.", "unique rows", "near duplicates", "When does it open?",
        "old.pdf", "it is encrypted.", "2 of type .xyz", "of 10",
    ):  # fmt: skip
        assert words in said, words
    assert page.tags.count("svg") == 2
    assert page.tags.count("figure") == 7


def test_equal_builds_have_equal_pages():
    assert report_page(report()) == report_page(report(seconds={"total": 99.0}, output="/other", created=False))


def test_no_text_of_a_document_is_markup():
    evil = "<script>alert(1)</script>\"'"
    made = report(
        name=evil, samples=[Sample("train", evil, evil, evil)], generator=Generator(evil, evil, evil),
        documents=DocumentCounts(1, 1, [SkippedDocument(evil, evil)], {evil: 1}, {evil: [evil]}),
        steps=[StepReport(evil, 1, 1, {evil: 1}, {evil: 1}, {evil: [evil]})],
        coverage=Coverage(1, 1, {evil: [1, 1]}),
    )  # fmt: skip
    assert "script" not in Page(report_page(made)).tags


def test_a_report_of_thousands_of_documents_stays_a_small_page():
    many = {f"folder/{number}.txt": [number % 7, 7] for number in range(50_000)}
    skipped = [SkippedDocument(f"{number}.pdf", "it is damaged.") for number in range(5_000)]
    made = report(coverage=Coverage(1, 1, many), documents=DocumentCounts(55_000, 50_000, skipped, {}))
    text = report_page(made)
    assert len(text) < 200_000
    assert "4,800 more are in the JSON report." in text


def test_a_report_of_nothing_has_a_page():
    empty = Lengths.of([])
    bare = report(steps=[], samples=[], generator=None, coverage=None, question_chars=empty, answer_chars=empty)
    assert "figure" not in Page(report_page(bare)).tags


def test_lengths_have_bins_that_hold_all_but_a_far_hundredth():
    near = Lengths.of(list(range(100)))
    assert (sum(near.bins), near.num_longer, near.bin_chars) == (100, 0, 5)
    far = Lengths.of([10] * 990 + [9000] * 10)
    assert (far.max, far.num_longer, sum(far.bins)) == (9000, 10, 990)
    assert len(far.bins) <= 25


@pytest.mark.parametrize(("output", "beside"), [("qa", "qa/report.html"), ("qa.jsonl", "qa.report.html")])
def test_the_page_lies_beside_the_json_report(tmp_path, output, beside):
    target = target_for(tmp_path / output, "chatml", overwrite=False)
    with target.open():
        target.finish({"digest": "x"}, {}, "<!doctype html>")
        target.publish()
    assert (tmp_path / beside).read_text() == "<!doctype html>"


def test_rows_are_told_at_every_thousandth_and_at_the_end():
    told = []
    assert list(counting(range(2500), told.append)) == list(range(2500))
    assert told == [1000, 2000, 2500]


def test_coverage_of_each_document_is_listed_where_it_is_asked_for():
    listed = " ".join(Page(report_page(report(), coverage_by_document=True)).text)
    title = "Coverage of documents, least first"
    assert title not in report_page(report())
    assert listed.index("b.pdf", listed.index(title)) < listed.index("90%", listed.index(title))
    assert "c.md" not in listed[listed.index(title) :]
