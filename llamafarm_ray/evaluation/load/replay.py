"""Recorded traffic: a JSONL file of requests with their times."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.load.traffic import Session, Turn

__all__ = ["read_prompts", "read_replay"]

_FORM = 'Each line is an object such as {"time": 0.5, "prompt": "..."}, or has messages instead of a prompt.'


def read_replay(path: Path, *, speed: float = 1.0) -> list[Session]:
    """Read recorded requests; the earliest is sent at once, and the others keep their distances to it.

    A line has ``time`` (seconds, or ISO 8601) and ``prompt`` or ``messages``; ``model`` and ``max_tokens`` if wanted.
    Other keys are ignored: logs have many.

    Args:
        speed: 2 sends twice as fast as recorded.

    Raises:
        InputError: the file can't be read, has no requests, or a line lacks something.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise InputError(f"The speed of a replay must be greater than 0, not {speed:g}.")
    rows = [(_time(row, where), row, where) for where, row in _objects(path)]
    if len({is_clock for (_, is_clock), _, _ in rows}) > 1:
        raise InputError(f"{path} has times in seconds and times of day.", hint="Use one of them.")
    rows.sort(key=lambda one: one[0][0])
    first = rows[0][0][0]
    return [
        Session((time_s - first) / speed, (_turn(row, where),), _model(row, where)) for (time_s, _), row, where in rows
    ]


def read_prompts(path: Path) -> list[str]:
    """Read texts to ask: a JSONL file with ``prompt`` or ``question`` in each line, or a text a line.

    Raises:
        InputError: the file can't be read, is empty, or a line has no text.
    """
    if path.suffix not in {".jsonl", ".json"}:
        texts = [line.strip() for line in _read(path).splitlines() if line.strip()]
        if not texts:
            raise InputError(f"{path} has no prompts.")
        return texts
    found = []
    for where, row in _objects(path):
        text = row.get("prompt", row.get("question"))
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where} has no prompt.", hint='Write {"prompt": "..."} on each line.')
        found.append(text)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}.") from None


def _objects(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    is_empty = True
    # A text may hold U+2028, which splitlines() takes for the end of a line and JSON does not.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where, is_empty = f"{path}, line {number},", False
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is no JSON: {error}.", hint=_FORM) from None
        if not isinstance(row, dict):
            raise InputError(f"{where} is no object.", hint=_FORM)
        yield where, row
    if is_empty:
        raise InputError(f"{path} has no requests.", hint=_FORM)


def _time(row: Mapping[str, object], where: str) -> tuple[float, bool]:
    """Return seconds, and whether they were written as a time of day."""
    value = row.get("time", row.get("timestamp"))
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value), False
    if isinstance(value, str):
        try:
            read = dt.datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            return (read if read.tzinfo else read.replace(tzinfo=dt.UTC)).timestamp(), True
    raise InputError(f"{where} has no usable time: {value!r}.", hint=f"Write seconds or ISO 8601. {_FORM}")


def _turn(row: Mapping[str, object], where: str) -> Turn:
    messages, max_tokens = row.get("messages"), row.get("max_tokens")
    if messages is None and isinstance(row.get("prompt"), str):
        messages = [{"role": "user", "content": row["prompt"]}]
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages)
    ):
        raise InputError(f"{where} has no prompt and no messages.", hint=_FORM)
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise InputError(f"{where} has max_tokens {max_tokens!r}.", hint="It must be a number of at least 1.")
    return Turn(tuple(messages), max_tokens)


def _model(row: Mapping[str, object], where: str) -> str:
    model = row.get("model", "")
    if not isinstance(model, str):
        raise InputError(f"{where} has the model {model!r}.", hint="It must be a text.")
    return model
