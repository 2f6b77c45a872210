import json

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.rag.questions import questions_digest, read_questions

ROWS = [
    {"question": "When was the mill built?", "answers": ["1832"], "document": "mill.md", "topic": "history"},
    {"question": "首都は?", "answer": "東京", "context": "日本の首都は東京です。"},
    {"question": "How many?", "accepted": [4, "four"]},
]


def written(tmp_path, text, name="questions.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_questions_are_read_from_lines_and_from_a_list(tmp_path):
    lines = written(tmp_path, "\n\n".join(map(json.dumps, ROWS)) + "\n")
    listed = written(tmp_path, json.dumps(ROWS, indent=1), "questions.json")
    first, second, third = read_questions(lines)
    assert (first.answers, first.document, dict(first.more)) == (("1832",), "mill.md", {"topic": "history"})
    assert (second.answers, second.context) == (("東京",), ("日本の首都は東京です。",))
    assert third.answers == ("4", "four")
    assert read_questions(listed) == [first, second, third]
    assert questions_digest(read_questions(listed)) == questions_digest([first, second, third])
    assert questions_digest([first]) != questions_digest([second])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[1", "no JSON"),
        ("3", "JSON int, not an object"),
        ('{"question": " ", "answers": ["x"]}', "has no question"),
        ('{"question": "x?"}', "no accepted answer"),
        ('{"question": "x?", "answers": []}', "no accepted answer"),
        ('{"question": "x?", "answers": ["a", " "]}', "empty text"),
        ('{"question": "x?", "answers": [null]}', "answers is"),
        ('{"question": "x?", "answers": "a", "answer": "b"}', "both"),
        ('{"question": "x?", "anwsers": ["a"]}', "'anwsers'"),
        ('{"question": "x?", "answers": "a", "document": 3}', "document is 3"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, said):
    good = json.dumps(ROWS[0])
    with pytest.raises(InputError, match=said) as caught:
        read_questions(written(tmp_path, f"{good}\n{row}\n"))
    assert "line 2" in str(caught.value)


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(InputError, match="no questions"):
        read_questions(written(tmp_path, "\n"))
    with pytest.raises(InputError, match="can't be read"):
        read_questions(tmp_path / "nowhere.jsonl")
