"""Structured answers: JSON against a schema, and calls of tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from llamafarm_ray.errors import InputError

__all__ = ["check_schema", "json_valid", "tool_call_accuracy"]

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)


def check_schema(schema: Mapping[str, object] | bool) -> None:
    """Check a JSON Schema before answers are measured with it.

    Raises:
        InputError: it is no JSON Schema.
    """
    named = schema.get("$schema", "") if isinstance(schema, Mapping) else ""
    if not isinstance(named, str):
        raise InputError(f"This is no JSON Schema: $schema is {named!r:.100}.", hint="Name its draft, or none.")
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        raise InputError(f"This is no JSON Schema: {error.message}.", hint="See https://json-schema.org.") from None


def json_valid(answer: str, schema: Mapping[str, object] | bool = True) -> float:
    """Return 1.0 if an answer is one JSON document that a schema accepts, else 0.0.

    Source: JSON, RFC 8259 (so ``NaN`` is none), and JSON Schema (https://json-schema.org). A code fence around the
    document is allowed, other text is not. References to other documents are never fetched, and don't hold.

    Args:
        schema: the schema, of the draft that it names; True accepts every document.
    """
    found, value = _parsed(fence[1] if (fence := _FENCE.fullmatch(answer)) else answer)
    if not found:
        return 0.0
    try:
        validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
        return float(validator.is_valid(value))
    except (Unresolvable, RecursionError, ArithmeticError):  # a number may be too large for a schema's arithmetic
        return 0.0


def tool_call_accuracy(
    calls: str | Sequence[Mapping[str, object]], expected: Sequence[Mapping[str, object]], *, ordered: bool = False
) -> float:
    """Return the share of calls that are right: 2 * matches / (calls made + calls expected), 0 to 1.

    A call matches an expected one with the same name and equal arguments. No calls where none are expected is 1.0.
    Source: the matching of syntax trees of the Berkeley Function-Calling Leaderboard
    (https://gorilla.cs.berkeley.edu/leaderboard.html), with a share instead of all or nothing.

    Args:
        calls: calls in OpenAI's shape (``{"function": {"name", "arguments"}}``) or plain (``{"name", "arguments"}``);
            as text: a JSON list or object of them, or ``<tool_call>`` elements. Arguments may be JSON texts.
        ordered: True if the n-th call must be the n-th expected one.
    """
    made = _calls_in(calls) if isinstance(calls, str) else [_call(one) for one in calls]
    known = [_call(one) for one in expected]
    if not made and not known:
        return 1.0
    if ordered:
        matches = sum(one is not None and one == other for one, other in zip(made, known, strict=False))
    else:
        left, matches = list(known), 0
        for one in made:
            if one is not None and one in left:
                left.remove(one)
                matches += 1
    return 2 * matches / (len(made) + len(known))


def _calls_in(text: str) -> list[str | None]:
    parts = _CALL.findall(text) if "<tool_call>" in text else [text]
    calls: list[str | None] = []
    for part in parts:
        found, value = _parsed(part)
        if found:
            calls += [_call(one) for one in (value if isinstance(value, list) else [value])]
        elif len(parts) > 1 or "<tool_call>" in text:
            calls.append(None)  # a call that can't be read is one that is wrong
    return calls


def _call(value: object) -> str | None:
    """Return a call in one spelling; None if it is none."""
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        found, arguments = _parsed(arguments or "{}")
        if not found:
            return None
    try:
        return json.dumps([value["name"], _with_equal_numbers(arguments)], sort_keys=True, default=str)
    except RecursionError:  # nested deeper than Python goes
        return None


def _with_equal_numbers(value: object) -> object:
    """Return a value in which 5.0 is 5, as JSON Schema has it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(name): _with_equal_numbers(one) for name, one in value.items()}
    return [_with_equal_numbers(one) for one in value] if isinstance(value, list) else value


def _parsed(text: str) -> tuple[bool, object]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        return True, json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False, None
