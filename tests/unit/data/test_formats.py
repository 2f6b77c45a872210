"""Example files are read and written in three formats, and a bad record is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.formats import FORMATS, format_record, parse_record, read_messages
from llamafarm_ray.data.rows import Message
from llamafarm_ray.errors import InputError

TEXT = st.text(min_size=1).filter(lambda text: text.strip())
TURNS = [Message("user", "Q?"), Message("assistant", "A.")]


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
    assert read_messages(path) == [tuple(TURNS)] * 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "Q"}, "is missing 'output'"),
        ({"instruction": " ", "output": "A"}, "has an empty 'instruction'"),
        ({"instruction": 5, "output": "A"}, "has a number as 'instruction', not text"),
        ({"messages": []}, "has an empty list as 'messages'"),
        ({"messages": "hi"}, "has text as 'messages'"),
        ({"messages": ["hi"]}, r"has text as messages\[0\], not an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"has 'tool' as messages\[0\].role, not one of system"),
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
        ("a.jsonl", b'{"instruction": "Q", "output": "A"}\n{', "line 2, is not valid JSON"),
        ("a.json", b"\xff\xfe\xfa", "not text"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_messages(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_messages(tmp_path / "none.json")


def test_line_separators_inside_of_text_end_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a\u2028b", "output": "c"}\n', encoding="utf-8")
    assert read_messages(path)[0][0].content == "a\u2028b"
