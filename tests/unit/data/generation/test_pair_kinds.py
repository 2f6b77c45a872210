"""Kinds of examples beside questions: each asked for, read, checked against its passage, and written as its rows."""

import json

import pytest
from chat_server import chat_server

from llamafarm_ray.config import DatasetConfig, QaGeneration
from llamafarm_ray.data.build.documents import examples_of
from llamafarm_ray.data.generation import choose_generator, plan_writer
from llamafarm_ray.data.generation.endpoint.variety import Variety
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.row_kinds import row_of_kind
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.search.hard_negatives import mine
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError
from llamafarm_ray.text.refusals import NOT_SAID
from llamafarm_ray.types import Digest

TEXT = "The mill opens at 09:00. Entry costs 4 euros for adults. Dogs wait outside in the yard."


def passage(index=0, text=TEXT):
    return Passage("a.md", Digest.of(b""), "The Mill", ("The Mill",), text, index, 100)


def generated(folder, items, kinds, **settings):
    """Return the written examples, those that pass the checks, the ledger, and the request."""
    with chat_server(answer=lambda _: json.dumps({"items": items})) as server:
        qa = QaGeneration.model_validate(
            {"model": "gpt", "kinds": kinds, "endpoint": {"base_url": server.url}, **settings}
        )
        plan = plan_writer(choose_generator(qa, base_model=None, environment={}), qa, cache=str(folder), environment={})
        (written,) = list(plan.open().write([passage()]))
    ledger = Ledger()
    rows = examples_of({passage(): written}, DatasetConfig(), ledger)
    return written, rows, ledger.to_dict(), server.asked


CASES = {
    "instructions": (
        {"instruction": "List the opening time of the mill.", "response": "The mill opens at 09:00."},
        {"instruction": "State when the mill closes.", "response": "The mill closes at 18:00."},
    ),
    "summaries": (
        {"summary": "The mill opens at 09:00 and entry costs 4 euros."},
        {"summary": "The mill is run by Anna Bell and opens at 09:00."},
    ),
    "dialogues": (
        {
            "turns": [
                "user: When does the mill open?",
                "assistant: The mill opens at 09:00.",
                "user: And what does entry cost?",
                "assistant: Entry costs 4 euros for adults.",
            ]
        },
        {
            "turns": [
                "user: When does the mill open?",
                "assistant: It opens at 07:00.",
                "user: And what does entry cost?",
                "assistant: Entry costs 4 euros for adults.",
            ]
        },
    ),
    "query_rewrites": (
        {
            "turns": ["user: hi, about the mill", "assistant: Yes?", "user: whats entry for adults"],
            "query": "mill entry costs adults",
        },
        {
            "turns": ["user: hi, about the mill", "assistant: Yes?", "user: what now"],
            "query": "weather tomorrow in Paris",
        },
    ),
    "retrieval": (
        {"query": "mill entry price for adults", "answer": "Entry costs 4 euros for adults."},
        {"query": "castle guided tour times", "answer": "The mill opens at 09:00."},
    ),
    "preferences": (
        {
            "question": "When does the mill open?",
            "chosen": "The mill opens at 09:00.",
            "rejected": "The mill opens at 10:00.",
        },
        {"question": "When does the mill open?", "chosen": "At 09:00.", "rejected": "The mill opens at 09:00."},
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_good_one_stays_and_a_bad_one_is_dropped_with_the_reason(tmp_path, kind):
    written, rows, ledger, asked = generated(tmp_path, CASES[kind], [kind])
    assert len(rows) == 1
    assert json.loads(rows[0]["provenance"])["kind"] == kind
    dropped = sum(written.dropped.values()) + sum(
        sum(step["dropped"].values()) for name, step in ledger.items() if name != "generate"
    )
    assert dropped == 1
    schema = asked[0]["response_format"]["json_schema"]["schema"]["properties"]["items"]["items"]
    assert schema["required"] == list(CASES[kind][0])
    assert TEXT in asked[0]["messages"][1]["content"]


def test_a_passage_is_asked_once_for_each_kind(tmp_path):
    _, _, _, asked = generated(tmp_path, [], ["instructions", "dialogues", "summaries"])
    assert len(asked) == 3
    assert sum("Summarize" in body["messages"][0]["content"] for body in asked) == 1


@pytest.mark.parametrize("items", [[{"instruction": 7, "response": "x"}], ["text"], [{"response": "x"}]])
def test_an_answer_of_another_form_is_asked_for_again_and_dropped(tmp_path, items):
    written, *_, asked = generated(tmp_path, items, ["instructions"])
    assert written.dropped == {"answer is not the JSON that was asked for": 1}
    assert len(asked) == 2


def test_personas_and_difficulties_are_asked_for_and_recorded(tmp_path):
    item = {**CASES["instructions"][0], "difficulty": "hard"}
    _, (row,), _, (body,) = generated(
        tmp_path, [item], ["instructions"], personas=["a new employee"], difficulty={"easy": 1, "hard": 3}
    )
    origin = json.loads(row["provenance"])
    assert (origin["persona"], origin["difficulty"]) == ("a new employee", "hard")
    assert "Write as this person would ask: a new employee." in body["messages"][1]["content"]
    fields = body["response_format"]["json_schema"]["schema"]["properties"]["items"]["items"]["properties"]
    assert fields["difficulty"]["enum"] == ["easy", "hard"]


def test_difficulties_have_their_weights_over_many_passages():
    variety = Variety(difficulty=(("easy", 1.0), ("hard", 3.0)))
    mixes = [variety.mix(passage(index), 1) for index in range(400)]
    assert sum(mix.get("hard", 0) for mix in mixes) == pytest.approx(300, abs=40)
    assert variety.mix(passage(), 8) in ({"easy": 2, "hard": 6}, {"easy": 1, "hard": 7}, {"easy": 3, "hard": 5})
    personas = Variety(personas=("a", "b", "c"))
    assert {personas.persona_of(passage(index)) for index in range(50)} == {"a", "b", "c"}


@pytest.mark.parametrize("model", ["rules", "base_model"])
@pytest.mark.parametrize(
    "asked",
    [{"kinds": ["dialogues"]}, {"personas": ["a child"]}, {"difficulty": {"easy": 1.0}}, {"unanswerable": True}],
)
def test_what_only_an_endpoint_makes_is_refused_without_one(asked, model):
    qa = QaGeneration.model_validate({**asked, "model": model})
    with pytest.raises(InputError, match=f"{next(iter(asked))} .*needs an endpoint"):
        choose_generator(qa, base_model="base", environment={})


def test_all_that_needs_an_endpoint_is_named_at_once():
    qa = QaGeneration(personas=("a child",), unanswerable=True)
    with pytest.raises(InputError, match=r"personas \(a child\) and unanswerable \(true\) need an endpoint"):
        choose_generator(qa, base_model=None, environment={})


# Hard negatives, without any model


def example_row(number, question, answer, passage_text, document="a.md"):
    messages = (Message("user", question), Message("assistant", answer))
    return {**Example(messages, document, Digest.of(b""), passage_text).build_row(number)}


SHOPS = [
    example_row(0, "When does the corner bakery open?", "The bakery opens at 6:00.", "The bakery opens at 6:00."),
    example_row(1, "When does the corner cinema open?", "The cinema opens at 20:00.", "The cinema opens at 20:00."),
    example_row(2, "Who runs the corner bakery?", "Ann Bell runs it.", "Ann Bell runs the corner bakery."),
    example_row(3, "When does the corner pool open?", NOT_SAID["en"], "The pool opens in the corner."),
]


def mined(kind, rows=SHOPS, validation=()):
    ledger = Ledger()
    found = mine(
        iter(rows), kind, lambda row_id: "validation" if row_id in validation else "train", lambda: rows, ledger
    )
    return [row_of_kind(row, kind) for row in found], ledger.to_dict()


def test_questions_become_queries_with_the_passages_that_look_like_theirs():
    rows, counts = mined("match")
    first = rows[0]
    assert (first["anchor"], first["positive"]) == ("When does the corner bakery open?", "The bakery opens at 6:00.")
    assert "The bakery opens at 6:00." not in first["negatives"]
    assert "Ann Bell runs the corner bakery." in first["negatives"]
    assert counts["hard_negatives"]["dropped"] == {"no passage answers the question": 1}


def test_a_passage_that_answers_too_is_no_negative():
    twin = example_row(4, "When is the bakery there?", "At 6:00.", "The corner bakery opens daily at 6:00.")
    rows, _ = mined("match", [*SHOPS, twin])
    assert twin["passage"] not in rows[0]["negatives"]


def test_no_training_row_shows_a_held_out_passage():
    held = SHOPS[1]["id"]
    rows, _ = mined("match", validation={held})
    by_anchor = {row["anchor"]: row for row in rows}
    assert SHOPS[1]["passage"] not in by_anchor["When does the corner bakery open?"]["negatives"]
    assert by_anchor["When does the corner cinema open?"]["negatives"] == []


def test_the_rejected_answer_is_one_to_another_question():
    rows, counts = mined("preference")
    assert rows[0]["chosen"] == "The bakery opens at 6:00."
    assert rows[0]["rejected"] in {"The cinema opens at 20:00.", "Ann Bell runs it."}
    assert counts["rejected_answers"]["dropped"]["no other answer of its document to reject"] >= 1
