import json
from dataclasses import replace

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.answered import Answered
from llamafarm_ray.evaluation.custom.description import find_set, find_sets
from llamafarm_ray.evaluation.custom.questions import Question, read_questions
from llamafarm_ray.evaluation.custom.scorer import OwnScorer
from llamafarm_ray.evaluation.custom.sets import CustomSet, failing, measure_set, paired_answers

ROWS = [
    {"id": "capital", "prompt": "Capital of France?", "answers": ["Paris"], "document": "europe.md"},
    {"question": "Legs of a spider?", "answer": "eight", "language": "en"},
    {"messages": [{"role": "user", "content": "Wool of?"}], "answers": ["llama", "alpaca"]},
]
SCORER = """
def same(answer, row):
    print("noise on standard output")
    return answer == row["wanted"]

def broken(answer, row):
    return 1 / len(answer)

def slow(answer, row):
    while True:
        pass

def undefined(answer, row):
    return float("nan") if answer else "much"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "evaluations").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "evaluations"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_name_is_a_file_of_questions_in_evaluations(here):
    write(here / "domain_specific_qa.jsonl", ROWS)
    found = find_set("domain_specific_qa")
    assert (found.name, found.scorer, found.must_pass) == ("domain_specific_qa", "contains", False)
    assert [question.id for question in found.questions] == ["capital", "2", "3"]
    assert [question.prompt for question in found.questions] == ["Capital of France?", "Legs of a spider?", "Wool of?"]
    assert [question.accepted for question in found.questions] == [("Paris",), ("eight",), ("llama", "alpaca")]
    assert found.questions[0].slices == {"document": "europe.md"}


def test_a_description_names_questions_scorer_and_instructions_beside_it(here):
    write(here / "rows.jsonl", [{"prompt": "Two?", "wanted": "2"}])
    (here / "own.py").write_text(SCORER, encoding="utf-8")
    text = "questions: rows.jsonl\nscorer: own.py:same\nmust_pass: true\nsystem: Be short.\nmax_new_tokens: 3\n"
    (here / "arithmetic.yaml").write_text(text, encoding="utf-8")
    found = find_set("arithmetic")
    assert (found.must_pass, found.max_new_tokens) == (True, 3)
    assert found.questions[0].messages[0] == {"role": "system", "content": "Be short."}
    (here / "own.py").unlink()  # the code travels with the set
    assert [one.value for one in found.scorer.score(found.questions, ["2"])] == [1.0]


@pytest.mark.parametrize(
    ("files", "name", "named"),
    [
        ({}, "qa", "no custom evaluation 'qa'"),
        ({"qa_one.jsonl": ROWS}, "qa_on", "Did you mean qa_one"),
        ({"qa.jsonl": []}, "qa", "has no questions"),
        ({"qa.jsonl": [{"prompt": "Why?"}]}, "qa", "line 1 has no answers"),
        ({"qa.jsonl": [{"answers": ["a"]}]}, "qa", "line 1 has no prompt"),
        ({"qa.jsonl": [{"prompt": "Why?", "answers": [{}]}]}, "qa", r"answers is \[\{\}\]"),
        ({"qa.jsonl": [ROWS[0], ROWS[0]]}, "qa", "line 2 has the id 'capital'"),
        ({"qa.jsonl": [{"messages": [{"role": "assistant", "content": "a"}]}]}, "qa", "end with the user's"),
        ({"qa.yaml": "questions: no.jsonl"}, "qa", "no.jsonl' can't be read"),
        ({"qa.yaml": "question: no.jsonl"}, "qa", "question"),
        ({"qa.yaml": "questions: q.jsonl\nscorer: contain"}, "qa", "Did you mean contains"),
        ({"qa.yaml": "questions: q.jsonl\nscorer: bleu"}, "qa", "'bleu', which can't score answers"),
        ({"qa.yaml": "questions: q.jsonl\nscorer: gone.py:score"}, "qa", "gone.py can't be read"),
    ],
)
def test_an_evaluation_that_cant_be_asked_is_refused_by_name(here, files, name, named):
    for file, content in files.items():
        if isinstance(content, str):
            (here / file).write_text(content, encoding="utf-8")
        else:
            write(here / file, content)
    with pytest.raises(InputError, match=named):
        find_set(name)


def test_a_list_with_a_byte_order_mark_and_numbers_for_answers_is_read_too(here):
    rows = [{"prompt": "Two and two?", "answer": 4, "language": ["en"]}]
    (here / "sums.txt").write_text(json.dumps(rows), encoding="utf-8-sig")
    (found,) = read_questions(here / "sums.txt")
    assert (found.accepted, found.slices) == (("4",), {"language": "['en']"})


@pytest.mark.parametrize("name", ["held_out", "retrieved", "mmlu"])
def test_two_results_cant_have_one_name(here, name):
    write(here / f"{name}.jsonl", ROWS)
    with pytest.raises(InputError, match=f"'{name}'"):
        find_sets([name], taken=["mmlu"])


def test_digests_change_with_questions_and_settings_and_with_nothing_else():
    asked = CustomSet("qa", questions(), "contains")
    known = asked.digests(40)
    assert replace(asked, name="other").digests(40) == known
    assert asked.digests(41)["settings"] != known["settings"]
    assert replace(asked, scorer="f1").digests(40)["settings"] != known["settings"]
    fewer = replace(asked, questions=questions(2)).digests(40)
    assert (fewer["data"] != known["data"], fewer["settings"]) == (True, known["settings"])


@pytest.mark.parametrize(
    "more",
    [{"schema": {"type": "object"}}, {"calls": [{"name": "f"}]}, {"context": "A text."}, {"tools": [{"name": "f"}]}],
)
def test_digests_change_with_all_that_is_asked_and_measured(more):
    def data(row):
        question = Question("1", ({"role": "user", "content": "Why?"},), ("yes",), row)
        return CustomSet("qa", (question,), "f1").digests(40)["data"]

    assert data(more) != data({})
    assert data({"note": "for people"}) == data({})


def test_differences_are_paired_by_question_and_clustered_by_document():
    def answered(score, baseline, document):
        return Answered("qa", "1", "Why?", (), "", score, baseline_score=baseline, slices={"document": document})

    rows = [answered(1.0, 0.0, "a.md"), answered(0.4, 0.6, "b.md"), answered(None, 1.0, "b.md")]
    pairs = paired_answers(rows)
    assert (pairs["accuracy"].model, pairs["accuracy"].baseline) == ([1, 0], [0, 1])
    assert (pairs["score"].model, pairs["score"].clusters) == ((1.0, 0.4), ("a.md", "b.md"))
    assert list(paired_answers(rows[:1])) == ["accuracy"]  # right and wrong alone: compared once
    assert paired_answers([answered(1.0, None, "a.md")]) == {}


def questions(number=3):
    return tuple(
        Question(str(index), ({"role": "user", "content": f"{index}?"},), (f"yes {index}",), {"wanted": f"yes {index}"})
        for index in range(number)
    )


def test_scores_stand_beside_the_baselines_and_every_answer_is_kept():
    asked = CustomSet("qa", questions(), "contains")
    scores, answered = measure_set(asked, [f"It is yes {one.id}." for one in asked.questions], ["yes 0"] * 3)
    assert scores.metrics == {"accuracy": 1.0, "score": 1.0}
    assert scores.baseline["accuracy"] == pytest.approx(1 / 3)
    assert (scores.improvement, scores.num_examples, scores.num_skipped) == ("+0.67", 3, 0)
    assert [(one.id, one.score, one.baseline_score) for one in answered] == [("0", 1, 1), ("1", 1, 0), ("2", 1, 0)]


def test_wrong_answers_are_shown_of_sets_that_must_pass_alone():
    for must_pass, expected in ((True, ["1", "2"]), (False, [])):
        asked = CustomSet("qa", questions(), "contains", must_pass=must_pass)
        _, answered = measure_set(asked, ["yes 0"] * 3)
        assert [one.id for one in failing(asked, answered)] == expected


def own(function, time_limit_s=30.0):
    return OwnScorer("", SCORER, function, time_limit_s)


def test_a_scorer_that_fails_on_an_answer_gives_no_score_and_no_nan():
    asked = CustomSet("qa", questions(), own("broken"), must_pass=True)
    scores, answered = measure_set(asked, ["", "yes", "y"])
    assert [one.score for one in answered] == [None, pytest.approx(1 / 3), 1]
    assert answered[0].failure == "ZeroDivisionError: division by zero"
    assert scores.num_skipped == 1
    assert scores.metrics["accuracy"] == pytest.approx(1 / 3)  # what must pass and has no score is wrong
    assert [one.id for one in failing(asked, answered)] == ["0", "1"]
    with pytest.raises(InputError, match="no finite number"):
        measure_set(CustomSet("qa", questions(), own("undefined")), ["", "a", "b"])


def test_a_scorer_has_a_time_limit():
    with pytest.raises(InputError, match=r"took longer than 0\.5 s for 3 answers"):
        own("slow", 0.5).score(questions(), ["a", "b", "c"])


@pytest.mark.parametrize(("reference", "named"), [("os:gone", "gone"), ("no_such_module:f", "No module named")])
def test_a_scorer_that_cant_be_called_is_an_error(reference, named):
    with pytest.raises(InputError, match=named):
        OwnScorer.find(reference, time_limit_s=30).score(questions(1), ["a"])
    with pytest.raises(InputError, match="is no scorer"):
        OwnScorer.find("just_a_name", time_limit_s=1)


def test_separators_of_lines_within_a_text_end_no_line(tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text('{"prompt": "a\u2028b", "answer": "c"}\n', encoding="utf-8")
    assert read_questions(path)[0].prompt == "a\u2028b"


CALL = {"name": "weather", "arguments": {"city": "Graz"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def described(here, metric, row):
    write(here / "rows.jsonl", [{"prompt": "Say it.", **row}])
    (here / "qa.json").write_text(json.dumps({"questions": "rows.jsonl", "scorer": metric}))
    return find_set("qa")


@pytest.mark.parametrize(
    ("metric", "row", "right", "wrong"),
    [
        ("json_valid", {"schema": {"type": "object", "required": ["city"]}}, '{"city": "Graz"}', "{}"),
        ("tool_call_accuracy", {"calls": [CALL]}, json.dumps(CALL), '{"name": "weather", "arguments": {}}'),
        ("faithfulness", {"context": "The mill was built in 1832."}, "It was built in 1832.", "It was built in 1990."),
        ("context_use", {"context": ["Built in 1832."], "answers": ["1832"]}, "1832", "1990"),
    ],
)
def test_metrics_take_schema_calls_and_context_from_the_row(here, metric, row, right, wrong):
    asked = described(here, metric, row)
    assert [measure_set(asked, [answer])[0].metrics["score"] for answer in (right, wrong)] == [1, 0]


@pytest.mark.parametrize(
    ("metric", "row", "says"),
    [
        ("json_valid", {"schema": "object"}, "no usable 'schema', which json_valid needs"),
        ("json_valid", {"schema": {"type": "text"}}, "rows.jsonl, line 1: This is no JSON Schema"),
        ("json_valid", {"schema": {"$schema": 7}}, "rows.jsonl, line 1: This is no JSON Schema"),
        ("tool_call_accuracy", {"answers": ["x"]}, "line 1 has no usable 'calls'"),
        ("tool_call_accuracy", {"calls": [CALL], "tools": ["weather"]}, "tools is no list of objects"),
        ("faithfulness", {"context": []}, "no usable 'context'"),
        ("context_use", {"context": "Built in 1832."}, "has no answers"),
        ("hit_rate", {"answers": ["x"]}, "can't score answers"),
    ],
)
def test_a_row_without_what_its_metric_needs_is_refused(here, metric, row, says):
    with pytest.raises(InputError, match=says):
        described(here, metric, row)


def test_tools_of_a_row_are_in_the_prompt_as_json():
    assert json.loads(Question("1", (), row={"tools": [TOOL]}).tools) == [TOOL]
    assert Question("1", ()).tools is None
