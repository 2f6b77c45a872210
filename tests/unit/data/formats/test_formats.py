"""Example files are read and written in three formats, and a bad record is named."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.formats import chat_row, default_format, format_record, format_row, parse_record
from llamafarm_ray.data.reading import read_dataset
from llamafarm_ray.data.records import open_writer
from llamafarm_ray.data.rows import Example, Message
from llamafarm_ray.data.training_rows import KINDS, judgement_row, match_row, parse_row, preference_row, text_row
from llamafarm_ray.errors import InputError

FORMATS = ("alpaca", "sharegpt", "chatml", "prompt_completion")
TEXT = st.text(min_size=1).filter(lambda text: text.strip())
TURNS = [Message("user", "Q?"), Message("assistant", "A.")]


def read_messages(path):
    """The conversations of a file."""
    return [tuple(map(Message.of, row["messages"])) for row in read_dataset(path).rows["train"]]


def write(path, records):
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    else:
        path.write_text(json.dumps(records))
    return path


def test_the_three_layouts():
    assert format_record(TURNS, "alpaca") == {"instruction": "Q?", "input": "", "output": "A."}
    assert format_record(TURNS, "sharegpt") == {
        "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]
    }
    assert format_record(TURNS, "chatml") == {
        "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    }


@given(st.sampled_from(FORMATS), TEXT, TEXT, st.none() | TEXT)
def test_what_is_written_reads_back_the_same(row_format, question, answer, system):
    messages = (
        *([Message("system", system)] if system else []),
        Message("user", question),
        Message("assistant", answer),
    )
    record = json.loads(json.dumps(format_record(messages, row_format)))
    assert parse_record(record) == messages


@pytest.mark.parametrize("row_format", ["sharegpt", "chatml"])
def test_longer_conversations_keep_their_turns(row_format):
    messages = tuple(TURNS * 3)
    assert parse_record(format_record(messages, row_format)) == messages


def test_alpaca_takes_one_question_and_its_answer():
    with pytest.raises(InputError, match="4 turns"):
        format_record(TURNS * 2, "alpaca")


def test_alpaca_input_belongs_to_the_question():
    record = {"instruction": "Translate.", "input": "Haus", "output": "house"}
    assert parse_record(record)[0].content == "Translate.\n\nHaus"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_files_may_mix_formats(tmp_path, name):
    path = write(tmp_path / name, [format_record(TURNS, row_format) for row_format in FORMATS])
    assert read_messages(path) == [tuple(TURNS)] * 4


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "Q"}, "is missing 'output'"),
        ({"instruction": " ", "output": "A"}, "has an empty 'instruction'"),
        ({"instruction": 5, "output": "A"}, "has a number as 'instruction', not text"),
        ({"messages": []}, "has an empty list as 'messages'"),
        ({"messages": "hi"}, "has text as 'messages'"),
        ({"messages": ["hi"]}, r"has text as messages\[0\], not an object"),
        (
            {"messages": [{"role": "narrator", "content": "x"}]},
            r"has 'narrator' as messages\[0\].role, not one of system",
        ),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"has \['user'\] as messages\[0\].role"),
        ({"messages": [{"role": "user"}]}, r"is missing 'messages\[0\].content'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has no assistant turn"),
        ({"conversations": [{"from": "human", "value": None}]}, r"is missing 'conversations\[0\].value'"),
        ({"prompt": "x"}, "has no known format; its keys are: 'prompt'"),
        ("text", "is text, not an object"),
        (None, "is null, not an object"),
    ],
)
def test_the_first_bad_record_is_named(tmp_path, record, message):
    good = format_record(TURNS, "chatml")
    with pytest.raises(InputError, match=f"a.json: record 1 {message}"):
        read_messages(write(tmp_path / "a.json", [good, record, record]))
    with pytest.raises(InputError, match=f"a.jsonl: line 2 {message}"):
        read_messages(write(tmp_path / "a.jsonl", [good, record]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "is empty"),
        ("a.jsonl", b"\n\n", "has no records"),
        ("a.json", b"[]", "has no records"),
        ("a.json", b'{"messages": []}', "an object, not a list"),
        ("a.json", b"[{]", "not valid JSON"),
        ("a.jsonl", b'{"instruction": "Q", "output": "A"}\n{', "line 2 is not valid JSON"),
        ("a.json", b"\xff\xfe\xfa", "not text"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'[{"question": "Q", "answer": "A\x00"}]', "line 1 has a zero byte"),
        ("a.json", b'[\n{"question": "caf\xe9"}]', "line 2 has the byte 0xe9"),
        ("a.csv", b"question,answer\nQ,A\ncaf\xe9,A\n", "line 3 has the byte 0xe9"),
        ("a.jsonl", b'{"instruction": "Q", "output": "A"}\n' + b"[" * 100_000, "line 2 is nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1 has a whole number of more than 4,300 digits"),
        ("a.jsonl", b'{"instruction": "Q",,}', "line 1 is not valid JSON: .* at character 21"),
        ("a.jsonl", b'{"messages": [{"role": "user", "role": "user"}]}', "line 1 has the key 'role' twice"),
        ("a.json", b'{"data": [{"text": "a"}], "data": [{"text": "b"}]}', "has the key 'data' twice"),
        ("a.json", b'[{"question": "Q", "answer": "A"}, {"a": [{"b": 1, "b": 2}]}]', "record 1 has the key 'b' twice"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_messages(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no dataset at"):
        read_messages(tmp_path / "none.json")


def test_line_separators_inside_of_text_end_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a\u2028b", "output": "c"}\n', encoding="utf-8")
    assert read_messages(path)[0][0].content == "a\u2028b"


def chat(**marks):
    """Two questions; the first answer has the marks."""
    turns = [{"role": m.role, "content": m.content} for m in TURNS * 2]
    turns[1] |= marks
    return turns


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"training": False}, {"loss": False}, {"weight": 0, "train": False}]
)
def test_an_answer_that_is_marked_as_not_trained_is_context_only(mark):
    chatml = parse_record({"messages": chat(**mark)})
    assert [message.train for message in chatml] == [None, False, None, None]
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A.", **mark}]
    assert parse_record({"conversations": turns})[1].train is False
    for row_format in ("chatml", "sharegpt"):
        assert parse_record(format_record(chatml, row_format)) == chatml


@pytest.mark.parametrize("mark", [{"weight": 1}, {"train": True}, {"loss": True}, {"weight": None}, {"weight": 1.0}])
def test_an_answer_that_is_marked_as_trained_is_trained_as_any_other(mark):
    assert parse_record({"messages": chat(**mark)}) == tuple(TURNS * 2)


def test_the_marks_are_part_of_what_a_row_is():
    trained, context = (Example(parse_record({"messages": chat(**mark)}), "d", "", "") for mark in ({}, {"weight": 0}))
    assert trained.id != context.id
    assert trained.id == Example(tuple(TURNS * 2), "d", "", "").id


def test_earlier_turns_and_a_system_prompt_beside_the_turns_come_first():
    history = [["One?", "1."], ["Two?", "2."]]
    expected = ["Be brief.", "One?", "1.", "Two?", "2.", "Q?", "A."]
    for record in (
        {"instruction": "Q?", "output": "A."},
        {"messages": [{"role": m.role, "content": m.content} for m in TURNS]},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                *({"role": m.role, "content": m.content} for m in TURNS),
            ]
        },
    ):
        messages = parse_record({"system": "Be brief.", "history": history, **record})
        assert [message.content for message in messages] == expected
    assert messages[0].role == "system"
    assert parse_record({"instruction": "Q?", "output": "A.", "history": None, "system": ""}) == tuple(TURNS)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": chat(weight=0.5)}, r"has 0.5 as 'messages\[1\].weight', not 0 or 1"),
        ({"messages": chat(weight=True)}, r"has True as 'messages\[1\].weight', not 0 or 1"),
        ({"messages": chat(train="no")}, r"has 'no' as 'messages\[1\].train', not false or true"),
        ({"messages": chat(weight=0, train=True)}, r"marks at messages\[1\] that differ: weight, train"),
        (
            {"messages": [{"role": "user", "content": "x", "train": True}]},
            r"'messages\[0\].train' on a turn that is no",
        ),
        ({"messages": chat(), "weight": 0.3}, "has 0.3 as 'weight'; all rows count alike"),
        ({"messages": chat(), "train": False}, "has false as 'train'; all rows are trained"),
        ({"messages": chat(), "train": "False"}, "has false as 'train'; all rows are trained"),
        ({"messages": chat(), "training": 0}, "has 0 as 'training'; all rows are trained"),
        ({"messages": chat(), "prompt": "Q?", "completion": "Lost."}, "in 'completion' a text that is none of them"),
        ({"messages": chat(), "prompt": "Lost?", "completion": "A."}, "in 'prompt' a text that is none of them"),
        (
            {"messages": chat(), "prompt": "Q?", "completion": [{"role": "assistant", "content": "Lost."}]},
            "in 'completion' a text that is none of them",
        ),
        ({"messages": chat(), "train": "no"}, "has no as 'train'; all rows are trained"),
        ({"messages": chat(), "system": "a", "system_prompt": "b"}, "has 'system' and 'system_prompt', which differ"),
        ({"messages": chat(), "tools": [{"name": "a"}], "functions": [{"name": "b"}]}, "has 'tools' and 'functions'"),
        ({"messages": chat(value="Lost.")}, r"has 'messages\[1\].content' and 'messages\[1\].value', which differ"),
        ({"messages": chat(**{"from": "human"})}, r"has 'messages\[1\].role' and 'messages\[1\].from', which differ"),
        (
            {"messages": chat(tool_calls=[{"name": "a"}], function_call={"name": "b"})},
            r"has 'messages\[1\].tool_calls' and 'messages\[1\].function_call', which differ",
        ),
        ({"messages": chat(), "tools": [{"type": "function"}]}, r"has no function with a name as tools\[0\]"),
        ({"messages": chat(tool_calls=[{"id": "1"}])}, r"no function with a name as messages\[1\].tool_calls\[0\]"),
        ({"messages": chat(reasoning_content="Hm.")}, r"'messages\[1\].reasoning_content', .* put the reasoning into"),
        ({"messages": chat(name="Ada")}, r"has 'messages\[1\].name'"),
        ({"messages": chat(), "images": ["a.png"]}, "has 1 images, and 0 marks <image> for them"),
        ({"messages": chat(), "videos": ["a.mp4"]}, "has 'videos', which can't be used: only text and references"),
        ({"messages": chat(), "conversations": [{"from": "human", "value": "x"}]}, "has both 'messages' and 'conv"),
        (
            {"system": "Be long.", "messages": [{"role": "system", "content": "Be brief."}, *chat()]},
            "has one system prompt as 'system' and another one among its turns",
        ),
        ({"instruction": "Q?", "output": "A.", "history": [["One?"]]}, r"has a list as history\[0\], not a question"),
        ({"instruction": "Q?", "output": "A.", "history": [["One?", ""]]}, r"has an empty 'history\[0\]\[1\]'"),
    ],
)
def test_what_a_record_means_and_can_not_be_done_is_refused_by_name_and_line(tmp_path, record, message):
    with pytest.raises(InputError, match=f"a.jsonl: line 2 .*{message}"):
        read_messages(write(tmp_path / "a.jsonl", [format_record(TURNS, "chatml"), record]))


def test_keys_that_say_nothing_and_notes_of_the_author_are_no_mistakes():
    empty = {"tools": [], "images": None, "history": [], "name": "set 1", "source": "web", "prompt_id": 3, "loss": 1.8}
    turns = chat(tool_calls=None, reasoning_content="", name=None)
    assert parse_record({**empty, "messages": turns}) == tuple(TURNS * 2)


WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
TOOL_TURNS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **WEATHER}]},
    {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It rains."},
]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Q?", "context": "", "response": "A."},
        {"prompt": "Q?", "completion": "A."},
        {"prompt": [{"role": "user", "content": "Q?"}], "completion": [{"role": "assistant", "content": "A."}]},
        {"question": "Q?", "answer": "A."},
        {"query": "Q?", "response": "A."},
        {"input": "Q?", "output": "A."},
        {"messages": None, "instruction": "Q?", "output": "A.", "text": None},
        {"conversations": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]},
        {"messages": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]},
        {"messages": json.dumps([{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}])},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Q?"}]},
                {"role": "model", "content": "A."},
            ]
        },
    ],
)
def test_a_question_and_its_answer_are_known_by_many_names(record):
    assert parse_record(record) == tuple(TURNS)


def test_texts_beside_a_question_stand_below_it_and_parts_are_joined_by_line_ends():
    dolly = parse_record({"instruction": "Who?", "context": "Ada wrote.", "response": "Ada."})
    assert dolly[0].content == "Who?\n\nAda wrote."
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}, *chat()[1:2]]
    assert [(m.role, m.content) for m in parse_record({"messages": turns})[:2]] == [
        ("system", "Be brief."),
        ("user", "One.\nTwo."),
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Q?", "completion": "A.", "question": "Q?", "answer": "A."}, "has both 'prompt/completion' and 'q"),
        ({"question": "Q?", "answer": ""}, "has an empty 'answer'"),
        ({"question": "", "answer": "A."}, "has an empty 'question'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            r"has null as messages\[0\].content\[0\].image_url, not the path or address of an image",
        ),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [WEATHER]}]}, "only the assistant calls tools"),
        (
            {"messages": chat(tool_calls=[{"function": {"name": "f", "arguments": "{"}}])},
            "has text as the arguments of",
        ),
        ({"messages": chat(), "tools": "weather"}, "has text as 'tools', not a list of tools"),
    ],
)
def test_half_a_pair_and_what_is_no_text_are_refused(tmp_path, record, message):
    with pytest.raises(InputError, match=f"line 1 .*{message}"):
        read_messages(write(tmp_path / "a.jsonl", [record]))


def test_tools_calls_and_results_are_kept(tmp_path):
    old = [
        TOOL_TURNS[0],
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Bonn"}'}},
        {"role": "function", "name": "weather", "content": "rain"},
        TOOL_TURNS[3],
    ]
    new = chat_row({"messages": TOOL_TURNS, "tools": [TOOL]})
    assert json.loads(new["tools"]) == [TOOL]
    assert json.loads(new["messages"][1]["tool_calls"]) == [{"id": "c1", **WEATHER}]
    assert new["messages"][2] == {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "c1"}
    older = chat_row({"messages": old, "functions": [TOOL["function"]]})
    assert (older["tools"], json.loads(older["messages"][1]["tool_calls"])) == (new["tools"], [WEATHER])
    assert new["id"] != chat_row({"messages": TOOL_TURNS})["id"], "the tools are part of what a row is"
    for row_format in ("chatml", "sharegpt", "prompt_completion"):
        for name in ("a.jsonl", "a.parquet", "a.csv"):
            messages = [Message.of(turn) for turn in new["messages"]]
            with contextlib.closing(open_writer(tmp_path / name)) as writer:
                writer.add(format_record(messages, row_format, tools=new["tools"]))
            assert read_dataset(tmp_path / name).rows["train"][0]["id"] == new["id"]


def turns_of(draw_roles):
    return st.lists(st.tuples(draw_roles, TEXT, st.booleans()), max_size=5)


@given(
    st.sampled_from(["chatml", "sharegpt", "prompt_completion"]), turns_of(st.sampled_from(["user", "assistant"])), TEXT
)
def test_chats_of_any_shape_read_back_the_same(row_format, turns, answer):
    messages = tuple(
        Message(role, text, False if role == "assistant" and marked else None)
        for role, text, marked in [("user", "Q?", False), *turns, ("assistant", answer, False)]
    )
    record = json.loads(json.dumps(format_record(messages, row_format)))
    assert parse_record(record) == messages


@given(TEXT, TEXT, TEXT, st.booleans())
def test_rows_of_other_kinds_read_back_the_same(question, chosen, rejected, label):
    rows = [
        ("preference", preference_row([Message("user", question)], chosen, rejected)),
        ("judgement", judgement_row([Message("user", question), Message("assistant", chosen)], label=label)),
        ("match", match_row(question, chosen, [rejected])),
        ("text", text_row(question)),
    ]
    for kind, row in rows:
        (record,) = format_row(row, kind, default_format(kind))
        assert parse_row(json.loads(json.dumps(record))) == (KINDS[kind], [row])
    liked, disliked = format_row(rows[0][1], "preference", "kto")
    assert (liked["label"], disliked["label"]) == (True, False)


def test_a_format_that_would_lose_something_is_refused():
    row = text_row("All of it.")
    with pytest.raises(InputError, match="Rows of the kind text can't be written as alpaca"):
        list(format_row(row, "text", "alpaca"))
    messages = [Message("user", "Q?"), Message("assistant", "A.", train=False)]
    with pytest.raises(InputError, match="with tools or marks does not fit the format alpaca"):
        format_record(messages, "alpaca")


@pytest.mark.parametrize(
    "record",
    [
        {"messages": chat(), "question": "Q?", "answer": ["A.", "a."]},
        {
            "messages": chat(
                tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
                function_call={"name": "f", "arguments": "{}"},
            )
        },
        {"messages": chat(), "tools": [{"type": "function", "function": {"name": "f"}}], "functions": [{"name": "f"}]},
    ],
    ids=["several accepted answers", "calls in both forms", "tools in both forms"],
)
def test_one_thing_in_two_forms_is_read_once(tmp_path, record):
    (messages,) = read_messages(write(tmp_path / "a.jsonl", [record]))
    assert len(messages) == len(TURNS) * 2
