"""Calls of tools: requests of users, and the calls that serve them, checked against the tools' schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from llamafarm_ray.data.formats.tools import normal_calls, normal_tools
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError, one_line, points_at_passage
from llamafarm_ray.data.generation.endpoint.prompt import TEXT
from llamafarm_ray.data.generation.endpoint.tasks import COMMON_RULES, Draft
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Message, chat_id
from llamafarm_ray.data.text import normal_words

__all__ = ["FIELDS", "KIND", "NOUN", "ToolBox", "num_requests"]

KIND = "tool_calls"
NOUN = "request with its calls"
_FACTS_PER_REQUEST = 2
_MAX_OFFERED = 8
_MAX_DEPTH = 50
_SMALL = 12
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CALL: Mapping[str, object] = {
    "type": "object",
    "properties": {"name": TEXT, "arguments": TEXT},
    "required": ["name", "arguments"],
    "additionalProperties": False,
}

Tool = Mapping[str, Any]

FIELDS: Mapping[str, object] = {"request": TEXT, "calls": {"type": "array", "items": _CALL}}
"""Schemas of the fields of an element of an answer. Arguments are JSON in a text: structured outputs allow no object
without fixed fields."""

_WANTED = """\
- Write requests that users make of an assistant with the tools below, about what the passage describes, and the calls \
that serve each one: one call, or several where the request asks for several things.
- A request says every value that its calls need, as people say it, without names of tools and arguments.
- A call uses a tool of the list, only with arguments of its schema, each with a value that the request gives or that \
follows from it. Leave out what the request does not give and the schema does not require.
- "arguments" is a JSON object, written as a text.
Answer with JSON only: {"items": [{"request": "...", "calls": [{"name": "...", "arguments": "{...}"}]}]}

Tools:
"""


def num_requests(num_facts: int) -> int:
    """Return the number of requests to ask for about a passage."""
    return max(1, num_facts // _FACTS_PER_REQUEST)


@dataclass(frozen=True, slots=True)
class ToolBox:
    """The tools of a build.

    Args:
        tools: each as JSON, with ``name``, ``description`` and ``parameters``.
    """

    tools: tuple[str, ...] = ()

    def offered(self, passage: Passage) -> tuple[dict[str, Any], ...]:
        """Return the tools for a passage, in their order: all, or those that share most words with it."""
        tools = [json.loads(tool) for tool in self.tools]
        if len(tools) <= _MAX_OFFERED:
            return tuple(tools)
        known = set(normal_words(passage.with_headings))
        shares = [_share_of(f"{tool['name'].replace('_', ' ')} {tool['description']}", known) for tool in tools]
        best = sorted(range(len(tools)), key=lambda index: (-shares[index], index))[:_MAX_OFFERED]
        return tuple(tools[index] for index in sorted(best))

    def system(self, passage: Passage) -> str:
        """Return the system turn of the prompt."""
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in self.offered(passage))
        return f"{COMMON_RULES}{_WANTED}{listed}"

    def read(self, item: Mapping[str, Any], passage: Passage) -> Draft | str:
        """Return the conversation in an element of an answer, or the reason to drop it.

        Raises:
            BadAnswerError: the element has another form.
        """
        request, calls = item.get("request"), item.get("calls")
        if not isinstance(request, str) or not isinstance(calls, list):
            raise BadAnswerError('An element has no text as "request", or no list as "calls".')
        request = one_line(request)
        if not calls:
            return "request without a call"
        if points_at_passage(request):
            return "question points at its passage"
        offered = self.offered(passage)
        made: list[dict[str, object]] = []
        for number, call in enumerate(calls, start=1):
            read = _call(call, {tool["name"]: tool for tool in offered}, request)
            if isinstance(read, str):
                return read
            if any(other["function"] == read for other in made):
                return "call made twice"
            made.append({"id": f"call_{number}", "type": "function", "function": read})
        return _draft(request, made, offered)


def _draft(request: str, calls: Sequence[Mapping[str, Any]], offered: Sequence[Tool]) -> Draft:
    """Return the conversation; filters see its calls as text."""
    shown = "\n".join(
        f"{call['function']['name']} {json.dumps(call['function']['arguments'], ensure_ascii=False)}" for call in calls
    )
    tools = normal_tools({"tools": list(offered)})
    turns: list[dict[str, object]] = [
        {"role": "user", "content": request},
        {"role": "assistant", "content": "", "tool_calls": normal_calls(list(calls), "tool_calls")},
    ]
    whole = {"messages": turns, "tools": tools, "id": chat_id([Message.of(turn) for turn in turns], tools)}
    return Draft((Message("user", request), Message("assistant", shown)), json.dumps(whole))


def _call(call: object, tools: Mapping[str, Tool], request: str) -> dict[str, Any] | str:
    """Return the function of a call, or the reason why it can't be used."""
    if not isinstance(call, Mapping):
        raise BadAnswerError('An element of "calls" is not an object.')
    tool, arguments = tools.get(str(call.get("name"))), _arguments(call.get("arguments"))
    if tool is None:
        return "call of a tool that does not exist"
    if arguments is None:
        return "arguments that are no JSON object"
    return _fault(arguments, tool["parameters"], request) or {"name": tool["name"], "arguments": arguments}


def _arguments(value: object) -> dict[str, object] | None:
    """Return the arguments of a call; None if they are no JSON object."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
        json.dumps(read, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _fault(arguments: Mapping[str, Any], schema: Mapping[str, Any], request: str) -> str:
    """Return the reason why arguments can't be used; "" if they can."""
    known = schema.get("properties") or {}
    if "additionalProperties" not in schema and "patternProperties" not in schema and arguments.keys() - known.keys():
        return "call with an argument that the tool does not have"
    try:
        Draft202012Validator(schema, registry=Registry()).validate(arguments)
    except (ValidationError, Unresolvable, RecursionError):
        return "arguments that the schema of the tool does not allow"
    if not all(_is_given(value, known.get(name, {}), request) for name, value in arguments.items()):
        return "argument that the request does not give"
    return ""


def _is_given(value: Any, schema: object, request: str, depth: int = 0) -> bool:
    """Return True for a value that a request names, as far as its words tell: no language is assumed.

    Values that the schema names (enumerations, defaults), dates and other formats, truth values and numbers up to
    twelve, which have words, are taken as given.
    """
    schema = schema if isinstance(schema, Mapping) else {}
    if depth > _MAX_DEPTH or value is None or isinstance(value, bool):
        return True
    if "format" in schema or value == schema.get("const", schema.get("default")) or value in schema.get("enum", ()):
        return True
    if isinstance(value, int | float):
        numbers = {number.replace(",", "") for number in _NUMBER.findall(request)}
        return abs(value) <= _SMALL or f"{abs(value):g}" in {f"{float(n):g}" for n in numbers if n.count(".") <= 1}
    if isinstance(value, str):
        return not value or _share_of(value, set(normal_words(request))) >= 1 / 2 or _holds(request, value)
    if isinstance(value, list):
        return all(_is_given(one, schema.get("items"), request, depth + 1) for one in value)
    properties = schema.get("properties") or {}
    return all(_is_given(one, properties.get(name), request, depth + 1) for name, one in value.items())


def _holds(request: str, value: str) -> bool:
    return value.casefold() in request.casefold()


def _share_of(text: str, words: set[str]) -> float:
    """Return the share of a text's words that are among others."""
    own = normal_words(text)
    return sum(word in words for word in own) / len(own) if own else 0.0
