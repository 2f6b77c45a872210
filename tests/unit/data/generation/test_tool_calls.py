"""Calls of tools: written for the tools of a file, each one checked against its schema and its request."""

import json

import pyarrow as pa
import pytest
import yaml
from chat_server import chat_server

from llamafarm_ray.config import DatasetConfig, parse_config
from llamafarm_ray.data.build.applicable import check_settings
from llamafarm_ray.data.build.documents import examples_of
from llamafarm_ray.data.generation import choose_generator, plan_writer
from llamafarm_ray.data.generation.endpoint.tool_calls import ToolBox
from llamafarm_ray.data.generation.tool_files import read_tools
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.row_kinds import row_of_kind, schema_of_build
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.training_rows import parse_row
from llamafarm_ray.errors import ConfigError, InputError
from llamafarm_ray.types import Digest

BOOK = {
    "name": "book_tour",
    "description": "Book a guided tour of the mill.",
    "parameters": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "people": {"type": "integer", "minimum": 1},
            "language": {"type": "string", "enum": ["en", "de"], "default": "en"},
            "day": {"type": "string", "format": "date"},
        },
        "required": ["name", "people"],
    },
}
HOURS = {"name": "opening_hours", "description": "Opening hours of a day.", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": BOOK}, {"type": "function", "function": HOURS}]
TEXT = "Guided tours of the mill start at 10:00. Groups of up to 40 people can book a tour. Tours are in two languages."
PASSAGE = Passage("api.md", Digest.of(b""), "The Mill", ("Tours",), TEXT, 0, 1)


def write(folder, content, name="tools.json"):
    path = folder / name
    path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))
    return path


def call(tool="book_tour", **arguments):
    return {"name": tool, "arguments": json.dumps(arguments)}


def settings(path, **more):
    return {"model": "gpt", "kinds": ["tool_calls"], "tools": str(path), **more}


def generated(folder, *items):
    """The rows that stay, the reasons of what was dropped, and the requests."""
    path = write(folder, TOOLS)
    with chat_server(answer=lambda _: json.dumps({"items": items})) as server:
        config = DatasetConfig.model_validate(
            {"preprocessing": {"qa_generation": settings(path, endpoint={"base_url": server.url})}}
        )
        qa = config.preprocessing.qa_generation
        cache = str(folder / "answers")
        plan = plan_writer(choose_generator(qa, base_model=None, environment={}), qa, cache=cache, environment={})
        (written,) = plan.open().write([PASSAGE])
    rows = examples_of({PASSAGE: written}, config, Ledger())
    table = pa.Table.from_pylist([row_of_kind(row, "chat") for row in rows], schema=schema_of_build(config))
    return table.to_pylist(), dict(written.dropped), server.asked


GOOD = {
    "request": "Please book a tour for the Harbour School, 23 people, in German.",
    "calls": [call(name="Harbour School", people=23, language="de")],
}


def test_a_request_with_its_calls_is_a_chat_with_tools(tmp_path):
    (row,), dropped, (body,) = generated(tmp_path, GOOD)
    assert dropped == {}
    assert row["messages"][0]["content"] == GOOD["request"]
    assert row["messages"][1]["content"] == ""
    (made,) = json.loads(row["messages"][1]["tool_calls"])
    assert made["function"] == {
        "name": "book_tour",
        "arguments": {"name": "Harbour School", "people": 23, "language": "de"},
    }
    assert [tool["function"]["name"] for tool in json.loads(row["tools"])] == ["book_tour", "opening_hours"]
    assert json.loads(row["provenance"])["kind"] == "tool_calls"
    kind, (parsed,) = parse_row({"messages": row["messages"], "tools": json.loads(row["tools"])})
    assert (kind.name, parsed["id"]) == ("chat", row["id"])
    assert BOOK["description"] in body["messages"][0]["content"]
    fields = body["response_format"]["json_schema"]["schema"]["properties"]["items"]["items"]
    assert fields["required"] == ["request", "calls"]


def asks(request, *calls):
    return {"request": request, "calls": list(calls)}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (asks("Book a tour for Ann, 2 people.", call("cancel_tour", name="Ann")), "call of a tool that does not exist"),
        (asks("Book for Ann.", {"name": "book_tour", "arguments": "{"}), "arguments that are no JSON object"),
        (asks("Book for Ann.", {"name": "book_tour", "arguments": "[1]"}), "arguments that are no JSON object"),
        (asks("Book for Ann, please.", call(name="Ann")), "arguments that the schema of the tool does not allow"),
        (asks("Book for Ann, 0.", call(name="Ann", people=0)), "arguments that the schema of the tool does not allow"),
        (
            asks("Book for Ann, 2 people.", call(name="Ann", people=2, phone="1")),
            "call with an argument that the tool does not have",
        ),
        (asks("Book a tour for 2 people.", call(name="Bob Hill", people=2)), "argument that the request does not give"),
        (asks("Book a tour for Ann, many.", call(name="Ann", people=31)), "argument that the request does not give"),
        (asks("Is it nice there?"), "request without a call"),
        (asks("Open?", call("opening_hours"), call("opening_hours")), "call made twice"),
        (asks("What does the passage say?", call("opening_hours")), "question points at its passage"),
    ],
)
def test_a_call_that_its_schema_or_its_request_does_not_allow_is_dropped(item, reason):
    assert ToolBox((json.dumps(BOOK), json.dumps(HOURS))).read(item, PASSAGE) == reason


def test_what_is_dropped_is_counted_and_the_others_stay(tmp_path):
    rows, dropped, _ = generated(tmp_path, asks("Is it nice there?"), GOOD, asks("Open?", call("weather")))
    assert len(rows) == 1
    assert dropped == {"request without a call": 1, "call of a tool that does not exist": 1}


def test_two_calls_for_one_request_stay_in_order(tmp_path):
    calls = [call(name="Ann Lee", people=2), call(name="Ann Lee", people=3)]
    (row,), *_ = generated(tmp_path, asks("Book a tour for Ann Lee for 2, and another one for 3.", *calls))
    made = json.loads(row["messages"][1]["tool_calls"])
    assert [one["id"] for one in made] == ["call_1", "call_2"]
    assert [one["function"]["arguments"]["people"] for one in made] == [2, 3]


def test_an_element_of_another_form_is_asked_for_again(tmp_path):
    _, dropped, asked = generated(tmp_path, {"request": "Open?", "calls": ["opening_hours"]})
    assert dropped == {"answer is not the JSON that was asked for": 1}
    assert len(asked) == 2


def test_of_many_tools_those_that_fit_the_passage_are_offered():
    many = [{**HOURS, "name": f"other_{number}", "description": "Weigh a parcel."} for number in range(20)]
    box = ToolBox(tuple(json.dumps(tool) for tool in [*many, BOOK]))
    names = [tool["name"] for tool in box.offered(PASSAGE)]
    assert len(names) == 8
    assert names[-1] == "book_tour"


OPENAPI = {
    "openapi": "3.1.0",
    "components": {
        "schemas": {
            "Order": {
                "type": "object",
                "properties": {"item": {"type": "string"}, "parent": {"$ref": "#/components/schemas/Order"}},
                "required": ["item"],
            }
        },
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}},
    },
    "paths": {
        "/orders/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}, {"name": "X-Key", "in": "header"}],
            "get": {"summary": "Look up an order."},
            "put": {
                "operationId": "changeOrder",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
            },
        }
    },
}


def test_lists_of_openai_and_mcp_and_openapi_descriptions_are_tools(tmp_path):
    mcp = {"tools": [{"name": BOOK["name"], "description": BOOK["description"], "inputSchema": BOOK["parameters"]}]}
    assert read_tools(write(tmp_path, TOOLS[:1])) == (BOOK,)
    assert read_tools(write(tmp_path, {"tools": [BOOK]}, "tools.yaml")) == (BOOK,)
    assert read_tools(write(tmp_path, mcp)) == (BOOK,)
    look_up, change = read_tools(write(tmp_path, OPENAPI))
    assert (look_up["name"], look_up["description"]) == ("get_orders_id", "Look up an order.")
    assert look_up["parameters"]["required"] == ["id"]
    assert change["name"] == "changeOrder"
    assert sorted(change["parameters"]["properties"]) == ["id", "item", "parent"]
    assert change["parameters"]["required"] == ["id", "item"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "has no tools"),
        ([], "has no tools"),
        ([{"description": "x"}], r"tools\[0\] has no name"),
        ([BOOK, BOOK], "several tools with the name 'book_tour'"),
        ([{**BOOK, "parameters": {"type": "string"}}], "no schema of an object"),
        ([{**BOOK, "parameters": {"type": "object", "required": "name"}}], "are no JSON schema"),
        ({"paths": {"/a": {"$ref": "other.yaml#/a"}}}, "refers to 'other.yaml#/a', which is not in it"),
    ],
)
def test_a_file_without_sound_tools_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_tools(write(tmp_path, content))


def test_tools_and_their_kind_are_set_together(tmp_path):
    for qa, message in (({"kinds": ["tool_calls"]}, "tools: is not set"), ({"tools": "t.json"}, "has no tool_calls")):
        with pytest.raises(ConfigError, match=message):
            parse_config({"dataset": {"preprocessing": {"qa_generation": qa}}})
    config = {"preprocessing": {"format": "alpaca", "qa_generation": settings(tmp_path)}}
    with pytest.raises(InputError, match="alpaca has no place for tools"):
        check_settings(DatasetConfig.model_validate(config), from_rows=False)
    by_rules = DatasetConfig.model_validate(config).preprocessing.qa_generation.model_copy(update={"model": "rules"})
    with pytest.raises(InputError, match="needs an endpoint"):
        choose_generator(by_rules, base_model=None, environment={})
