import json

import pytest

from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.training_rows import KINDS, kind_of
from llamafarm_ray.errors import InputError

USER = {"role": "user", "content": "A llama?"}
GOOD, BAD = {"role": "assistant", "content": "An animal."}, {"role": "assistant", "content": "A plant."}
FROM_USER, FROM_GOOD, FROM_BAD = (
    {"from": who, "value": turn["content"]}
    for who, turn in zip(("human", "gpt", "gpt"), (USER, GOOD, BAD), strict=True)
)
SYSTEM = {"role": "system", "content": "Be brief."}


PREFERENCE = {"prompt": "a", "chosen": "b", "rejected": "c"}
JUDGEMENT = {"prompt": "a", "completion": "b", "label": True}
MATCH = {"anchor": "a", "positive": "b"}


def read(tmp_path, *records):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    found = read_dataset(path)
    return found.kind, found.rows["train"]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER], "chosen": "An animal.", "rejected": "A plant."},
        {"prompt": "A llama?", "chosen": "An animal.", "rejected": "A plant."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "A llama?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"conversations": [FROM_USER], "chosen": FROM_GOOD, "rejected": FROM_BAD},
        {"instruction": "A llama?", "input": "", "chosen": "An animal.", "rejected": "A plant."},
        {"prompt": "A llama?", "context": ["b"], "chosen": "An animal.", "rejected": "A plant."},
        {"prompt": "A llama?", "instruction": "A llama?", "chosen": "An animal.", "rejected": "A plant."},
        {"prompt": "Human: A llama? Assistant:", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_every_form_of_a_preference_is_the_same_row(tmp_path, record):
    kind, (row,) = read(tmp_path, record)
    assert kind is KINDS["preference"]
    assert (row["messages"], row["chosen"], row["rejected"]) == ([USER], "An animal.", "A plant.")
    assert row["id"] == read(tmp_path, {"messages": [USER], "chosen": "An animal.", "rejected": "A plant."})[1][0]["id"]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, GOOD], "label": True},
        {"prompt": "A llama?", "completion": "An animal.", "label": True},
        {"prompt": [USER], "completion": [GOOD], "label": True},
        {"conversations": [FROM_USER, FROM_GOOD], "kto_tag": True},
        {"instruction": "A llama?", "output": "An animal.", "label": True},
        {"question": "A llama?", "answer": "An animal.", "label": True},
        {"prompt": "A llama?", "response": "An animal.", "kto_tag": True, "label": None},
        {"query": "A llama?", "response": "An animal.", "label": True},
    ],
)
def test_every_form_of_a_judgement_is_the_same_row(tmp_path, record):
    kind, (row,) = read(tmp_path, record)
    assert kind is KINDS["judgement"]
    assert (row["messages"], row["label"]) == ([USER, GOOD], True)


def test_a_label_in_words_beside_a_question_is_a_note(tmp_path):
    kind, _ = read(tmp_path, {"question": "A llama?", "answer": "An animal.", "label": "zoology"})
    assert kind is KINDS["chat"]


def test_matches_have_any_number_of_negatives(tmp_path):
    rows = read(
        tmp_path,
        {"anchor": "a", "positive": "b"},
        {"anchor": "a", "positive": "b", "negative": "c"},
        {"anchor": "a", "positive": "b", "negatives": ["c", "d"]},
        {"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": "d", "negative_10": "e", "negative_3": None},
        {"query": "a", "pos": ["b", "e"], "neg": ["c"]},
    )[1]
    assert [(row["anchor"], row["positive"], row["negatives"]) for row in rows] == [
        ("a", "b", []),
        ("a", "b", ["c"]),
        ("a", "b", ["c", "d"]),
        ("a", "b", ["c", "d", "e"]),
        ("a", "b", ["c"]),
        ("a", "e", ["c"]),
    ]


def test_text_and_system_prompts_are_read(tmp_path):
    assert read(tmp_path, {"text": "Water."})[1][0]["text"] == "Water."
    row = read(tmp_path, {"system": "Be brief.", "prompt": "A llama?", "chosen": "x", "rejected": "y"})[1][0]
    assert row["messages"] == [SYSTEM, USER]


@pytest.mark.parametrize("key", ["input", "context"])
@pytest.mark.parametrize("answers", [{"chosen": "x", "rejected": "y"}, {"completion": "x", "label": True}])
def test_a_text_beside_a_prompt_stands_below_it_in_every_kind(tmp_path, key, answers):
    row = read(tmp_path, {"prompt": "Sum up.", key: "A llama is an animal.", **answers})[1][0]
    assert row["messages"][0]["content"] == "Sum up.\n\nA llama is an animal."


def test_a_prompt_that_holds_the_text_beside_it_gets_it_once(tmp_path):
    prompt = "Sum up.\n\nA llama is an animal."
    record = {"prompt": prompt, "instruction": "Sum up.", "input": "A llama is an animal.", "chosen": "x"}
    assert read(tmp_path, {**record, "rejected": "y"})[1][0]["messages"][0]["content"] == prompt


def test_an_answer_that_is_given_twice_is_one(tmp_path):
    for record in (
        {"prompt": "A llama?", "completion": "An animal.", "output": "An animal."},
        {"messages": [USER, GOOD], "completion": "An animal."},
    ):
        assert read(tmp_path, {**record, "label": True, "kto_tag": True})[1][0]["messages"] == [USER, GOOD]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "A llama?", "chosen": "x", "rejected": "y"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"messages": [USER], "chosen": "x", "rejected": "y"},
        {"messages": [USER, GOOD], "label": True},
    ],
)
def test_a_system_prompt_and_earlier_turns_come_before_the_prompt_of_any_form(tmp_path, record):
    earlier = {"system": "Be brief.", "history": [["One?", "1."]]}
    messages = read(tmp_path, {**earlier, **record})[1][0]["messages"]
    assert [turn["content"] for turn in messages[:4]] == ["Be brief.", "One?", "1.", "A llama?"]


@pytest.mark.parametrize("record", [{"messages": [USER, GOOD]}, {"instruction": "a", "output": "b"}, {"other": 1}, [1]])
def test_what_is_of_no_other_kind_is_a_conversation(record):
    assert kind_of(record) is KINDS["chat"]


def test_a_preference_of_whole_chats_holds_its_prompt_whatever_stands_beside_it(tmp_path):
    record = {"prompt": "A llama?", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]}
    assert read(tmp_path, record)[1][0]["messages"] == [USER]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "has no prompt"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "has an empty 'chosen'"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "has a number as 'chosen', not text"),
        ({"messages": [USER, GOOD], "chosen": "a", "rejected": "b"}, "prompt that ends with an assistant turn"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, "has user after the prompt as 'chosen'"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [{"role": "robot"}]}, r"rejected\[0\]\.role"),
        ({"messages": [USER, GOOD], "label": "yes"}, "has 'yes' as 'label', not true or false"),
        ({"messages": [USER], "label": True}, "does not end with the assistant turn"),
        ({"anchor": "a", "positive": "b", "negatives": "c"}, "has text as 'negatives', not a list"),
        ({"anchor": "a", "positive": "b", "negatives": [""]}, r"has an empty 'negatives\[0\]'"),
        ({"query": "a", "pos": []}, "has an empty list as 'pos'"),
        ({"text": " "}, "has an empty 'text'"),
        (
            {"messages": [USER, {**GOOD, "weight": 0}], "label": True},
            "marks the answer that is compared as not trained",
        ),
        ({"prompt": [USER], "chosen": [{**GOOD, "train": False}], "rejected": [BAD]}, "marks the answer"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": "[{}]"}, "has 'tools', which can't be used"),
        ({**PREFERENCE, "instruction": "z"}, "has 'prompt' and 'instruction', which differ; keep one"),
        ({**PREFERENCE, "system": "y", "system_prompt": "z"}, "has 'system' and 'system_prompt', which differ"),
        ({"messages": [USER], **PREFERENCE, "prompt": "z"}, "has turns, and in 'prompt' a text that is none of them"),
        ({"prompt": "z", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "in 'prompt' a text that is none of them"),
        ({"instruction": "z", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "in 'instruction' a text that is none"),
        ({**JUDGEMENT, "kto_tag": False}, "has 'label' and 'kto_tag', which differ; keep one"),
        ({**JUDGEMENT, "output": "z"}, "has 'completion' and 'output', which differ; keep one"),
        ({"messages": [USER, GOOD], "output": "z", "label": True}, "in 'output' a text that is none of them"),
        ({**MATCH, "neg": ["c"]}, "has 'anchor' and 'positive', and 'neg' of another form"),
        ({"query": "a", "pos": ["b"], "negative_1": "c"}, "has 'query' and 'pos', and 'negative_1' of another form"),
        ({"query": "a", "pos": ["b"], "negatives": ["c"]}, "has 'query' and 'pos', and 'negatives' of another form"),
    ],
)
def test_a_bad_record_is_named_with_what_is_wrong(tmp_path, record, message):
    with pytest.raises(InputError, match=rf"rows\.jsonl: line 1 .*{message}"):
        read(tmp_path, record)


def test_one_file_has_one_kind(tmp_path):
    with pytest.raises(InputError, match="line 2 is no text row as the first one is"):
        read(tmp_path, {"text": "a"}, {"messages": [USER, GOOD]})


@pytest.mark.parametrize(
    ("first", "record", "lacking"),
    [
        (PREFERENCE, {"prompt": "a", "chosen": "b", "rejected": None}, "'rejected'"),
        (JUDGEMENT, {"prompt": "a", "completion": "b", "label": None}, "'label'"),
        (JUDGEMENT, {"label": True, "answer": "b"}, "a conversation"),
        (MATCH, {"anchor": "a"}, "'positive'"),
        (MATCH, {"query": "a"}, "'pos'"),
        ({"text": "a"}, {"content": "b"}, "'text'"),
    ],
)
def test_a_record_that_lacks_a_key_of_its_kind_is_told_that_key_and_no_other(tmp_path, first, record, lacking):
    with pytest.raises(InputError, match=f"line 2 is no .* row as the first one is; it lacks {lacking}[.]"):
        read(tmp_path, first, record)
