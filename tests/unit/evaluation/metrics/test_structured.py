import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.metrics import check_schema, json_valid, tool_call_accuracy

SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"town": "京都"}', 1),
        ('```json\n{"town": "Bern"}\n```', 1),
        ('{"town": 3}', 0),
        ("{}", 0),
        ('Here: {"town": "Bern"}', 0),
        ('{"town": "Bern"', 0),
        ('{"town": NaN}', 0),
        ("", 0),
        ("[" * 100_000, 0),
        ("1" * 5000, 0),
    ],
)
def test_json_is_checked_against_a_schema(answer, expected):
    assert json_valid(answer, SCHEMA) == expected


ODD = ("1e999", "-1e999", "1" * 4000, "[" * 900 + "]" * 900, '"\\ud800"', '{"name": "f", "arguments": {"a": 1e999}}')
DEEP = '{"name": "f", "arguments": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize("answer", [*ODD, DEEP])
def test_odd_documents_have_a_score(answer):
    schemas = ({"multipleOf": 0.01}, {"multipleOf": 3}, {"uniqueItems": True}, {"$ref": "#"}, {"minimum": 0})
    for schema in schemas:
        check_schema(schema)
        assert json_valid(answer, schema) in {0, 1}
    assert tool_call_accuracy(answer, [{"name": "g"}]) == 0


def test_without_a_schema_any_json_document_is_valid():
    assert [json_valid(text) for text in ("3", "null", '"a"', "NaN", "x")] == [1, 1, 1, 0, 0]


def test_schemas_elsewhere_are_never_fetched():
    assert json_valid("{}", {"$ref": "http://127.0.0.1:1/schema.json"}) == 0


def test_a_schema_that_is_none_is_refused():
    check_schema(SCHEMA)
    with pytest.raises(InputError, match="no JSON Schema"):
        check_schema({"type": "town"})


WEATHER = {"name": "weather", "arguments": {"town": "Bern", "days": 5}}
TIME = {"name": "time", "arguments": {}}


def test_calls_match_by_name_and_arguments_in_every_spelling():
    spellings = [
        [WEATHER],
        [{"type": "function", "function": {"name": "weather", "arguments": '{"days": 5.0, "town": "Bern"}'}}],
        '{"name": "weather", "arguments": {"town": "Bern", "days": 5}}',
        'So:\n<tool_call>\n{"name": "weather", "parameters": {"town": "Bern", "days": 5}}\n</tool_call>',
    ]
    assert [tool_call_accuracy(spelling, [WEATHER]) for spelling in spellings] == [1, 1, 1, 1]


def test_the_share_of_right_calls():
    # Two of three calls made match, two of two expected are made.
    assert tool_call_accuracy([TIME, WEATHER, TIME], [WEATHER, TIME]) == pytest.approx(4 / 5)
    assert tool_call_accuracy([TIME, WEATHER], [WEATHER, TIME], ordered=True) == 0
    assert tool_call_accuracy([{"name": "weather", "arguments": {"town": "Berne"}}], [WEATHER]) == 0


@pytest.mark.parametrize("text", ["", "no call", "<tool_call>{</tool_call>", "[1, null]", '{"name": 3}'])
def test_texts_without_a_call_make_none_right(text):
    assert tool_call_accuracy(text, [WEATHER]) == 0


def test_no_call_is_right_where_none_is_expected():
    assert tool_call_accuracy("It is noon.", []) == 1
    assert tool_call_accuracy([TIME], []) == 0
