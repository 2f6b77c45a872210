"""Findings of a failed validation: the canonical paths that are wrong, and the values allowed there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llamafarm_ray.config.layout import Path, layout, parse_path
from llamafarm_ray.config.wording import near, shown

__all__ = ["Finding", "findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake in canonical terms.

    Attributes:
        paths: the keys it is about; it is reported at the first.
        inside: place in the first key's value, such as a position in a list.
        text: the mistake; ``{1}`` and ``{2}`` stand for the further keys, as the user wrote them.
    """

    paths: tuple[Path, ...]
    text: str
    inside: tuple[int, ...] = ()


def findings(error: ValidationError) -> Iterator[Finding]:
    """Everything that is wrong, one finding a place, although a choice of types fails once for each of them."""
    at_place: dict[tuple[Path, tuple[int, ...]], list[ErrorDetails]] = defaultdict(list)
    for detail in error.errors(include_url=False):
        path = layout().leaf_above(detail["loc"])
        if detail["type"] == "mistakes":
            for keys, text in detail["ctx"]["mistakes"]:
                yield Finding(tuple((*path, *parse_path(key)) for key in keys), text)
            continue
        inside = tuple(part for part in detail["loc"][len(path) :] if isinstance(part, int))
        at_place[path, inside].append(detail)
    deepest = {path: max(len(inside) for other, inside in at_place if other == path) for path, _ in at_place}
    for (path, inside), details in at_place.items():
        if len(inside) == deepest[path]:  # a list with a wrong element is no wrong list
            yield Finding((path,), _sentence(path, details).replace("{", "{{").replace("}", "}}"), inside)


def _sentence(path: Path, details: Sequence[ErrorDetails]) -> str:
    if details[0]["type"] == "missing":
        return "is missing; it has no default."
    if details[0]["type"] == "extra_forbidden":
        return f"is no known key{_maybe(path[-1], layout().sections[path[:-1]].model_fields)}"
    value = details[0]["input"]
    sentence = f"must be {_or([_expected(detail) for detail in details])}, not {shown(value)}"
    if isinstance(value, str):
        return sentence + _maybe(value, _choices(path))
    if any(detail["type"] == "string_type" for detail in details) and isinstance(value, int | float):
        return f"{sentence}; put it in quotes."
    return f"{sentence}."


def _maybe(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a wrong name: the near ones, if there are any."""
    found = near(name, known)
    return f"; did you mean {' or '.join(found)}?" if found else "."


def _choices(path: Path) -> list[str]:
    """The texts that a key's type lists, wherever in the type."""
    info = layout().leaves.get(path)
    waiting, texts = [info.annotation if info else None], []
    while waiting:
        part: object = waiting.pop()
        texts += [part] if isinstance(part, str) else []
        waiting += get_args(part)
    return texts


_EXPECTED: dict[str, Callable[[dict[str, Any]], str]] = {
    "bool_type": lambda _: "true or false",
    "dict_type": lambda _: "a mapping",
    "finite_number": lambda _: "a finite number",
    "float_type": lambda _: "a number",
    "greater_than": lambda ctx: f"more than {_number(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"at least {_number(ctx['ge'])}",
    "int_type": lambda _: "a whole number",
    "less_than": lambda ctx: f"less than {_number(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"at most {_number(ctx['le'])}",
    "mapping_type": lambda _: "a mapping",
    "model_type": lambda _: "a mapping",
    "string_too_long": lambda ctx: f"text of {ctx['max_length']} characters at most",
    "string_type": lambda _: "text",
    "string_unicode": lambda _: "text in valid Unicode",
    "tuple_type": lambda _: "a list",
}


def _expected(detail: ErrorDetails) -> str:
    """Return pydantic's expectation, as the end of "must be ..."."""
    context: dict[str, object] = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "value_error":
        return str(context["error"]).removeprefix("must be ")
    if kind == "literal_error":
        values = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"one of {values}" if ", " in values else values
    if kind == "string_too_short":
        least = context["min_length"]
        return "text that isn't empty" if least == 1 else f"text of {least} characters or more"
    known = _EXPECTED.get(kind)
    return known(context) if known else detail["msg"].removeprefix("Input should be ").lower()


def _number(value: float) -> str:
    """A limit without the fraction that pydantic gives to whole ones."""
    return str(int(value) if value == int(value) else value)


def _or(parts: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(parts))
