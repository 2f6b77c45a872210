"""Tools and calls of tools, in the form that chat templates take: OpenAI's, with arguments as an object.

They travel as JSON text: Arrow would give each tool the keys of all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from llamafarm_ray.data.formats.values import RecordError, is_empty, kind_name, parsed_list
from llamafarm_ray.data.rows import Message

__all__ = ["call_of_function", "name_of_call", "normal_calls", "normal_tools"]


def normal_tools(record: Mapping[str, object]) -> str | None:
    """Return the tools of a record as JSON; None if it has none.

    Raises:
        RecordError: they are no list of tools with names.
    """
    key = "tools" if not is_empty(record.get("tools")) else "functions"
    value = parsed_list(record.get(key))
    if is_empty(value):
        return None
    if not isinstance(value, list):
        raise RecordError(f"has {kind_name(value)} as '{key}', not a list of tools.")
    tools = []
    for index, tool in enumerate(value):
        function = _function(parsed_list(tool), f"{key}[{index}]")
        parameters = parsed_list(function.get("parameters"))
        tools.append(
            {"type": "function", "function": {**function, **({"parameters": parameters} if parameters else {})}}
        )
    return _json(tools)


def normal_calls(value: object, where: str) -> str | None:
    """Return the calls of a turn as JSON; None if there are none.

    Raises:
        RecordError: one has no name, or arguments that are no object.
    """
    if is_empty(value):
        return None
    value = parsed_list(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RecordError(f"has {kind_name(value)} as '{where}', not a list of tool calls.")
    calls = []
    for index, call in enumerate(value):
        function = _function(call, f"{where}[{index}]")
        arguments = parsed_list(function.get("arguments"))
        arguments = {} if is_empty(arguments) else arguments
        if not isinstance(arguments, Mapping):
            raise RecordError(f"has {kind_name(arguments)} as the arguments of {where}[{index}], not an object.")
        given = call.get("id")
        call_id = {"id": given} if isinstance(given, str) and given else {}
        calls.append({**call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return _json(calls)


def call_of_function(value: object, where: str) -> str | None:
    """Return the call of a turn in OpenAI's older form, ``function_call``."""
    return normal_calls([parsed_list(value)], where)


def name_of_call(messages: Sequence[Message], call_id: str) -> str:
    """Return the name of the tool that was called with an id; "" if none was."""
    for message in reversed(messages):
        for call in json.loads(message.tool_calls or "[]"):
            if call_id and call.get("id") == call_id:
                return str(call["function"]["name"])
    return ""


def _function(value: object, where: str) -> Mapping[str, object]:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RecordError(f"has no function with a name as {where}.")
    return function


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
