"""Usage of versions by key and route, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from llamafarm_ray.errors import InputError

__all__ = ["OTHERS", "UsageKey", "UsageTable", "Used", "read_usage"]

_MAX_ROWS: Final = 5000
OTHERS: Final = "other"
"""The principal of keys beyond the first 5,000 rows."""


@dataclass(frozen=True, slots=True)
class UsageKey:
    """A row of the table.

    Args:
        ref: ``name:version`` or the base's name.
        principal: the key's principal; "" where no key is asked for.
        route: path of the requests, such as ``/v1/chat/completions``.
    """

    ref: str
    principal: str
    route: str


@dataclass(slots=True)
class Used:
    """Consumption of requests.

    Args:
        num_requests: requests that reached the engine.
        request_s: seconds that the requests were at the engine, added up: several are there at once.
        last_s: end of the last one, seconds since 1970.
    """

    num_requests: int = 0
    num_failed: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    request_s: float = 0.0
    last_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.answer_tokens

    def take_in(self, other: Used) -> None:
        """Add another."""
        self.last_s = max(self.last_s, other.last_s)
        for name in ("num_requests", "num_failed", "prompt_tokens", "answer_tokens", "request_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class UsageTable:
    """Usage by version, principal and route; and the seconds at the engine by hour.

    Args:
        max_rows: rows of their own; more share one of each version, or of all.

    Attributes:
        hours_s: seconds of requests at the engine in each hour of the day (UTC), shape ``(24,)``.
    """

    def __init__(self, *, max_rows: int = _MAX_ROWS) -> None:
        self._max_rows = max_rows
        self.rows: dict[UsageKey, Used] = {}
        self.hours_s = [0.0] * 24

    def add(self, key: UsageKey, used: Used) -> None:
        """Count a request."""
        for one in (key, UsageKey(key.ref, OTHERS, key.route)):
            if one in self.rows or len(self.rows) < self._max_rows:
                self.rows.setdefault(one, Used()).take_in(used)
                break
        else:
            self.rows.setdefault(UsageKey(OTHERS, OTHERS, OTHERS), Used()).take_in(used)
        self.hours_s[int(used.last_s // 3600) % 24] += used.request_s

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        rows = [{**asdict(key), **asdict(used)} for key, used in self.rows.items()]
        return {"rows": rows, "hours_s": [round(one, 3) for one in self.hours_s]}


def read_usage(values: Mapping[str, Any]) -> UsageTable:
    """Read the plain values of :meth:`UsageTable.to_dict`.

    Raises:
        InputError: they are not such.
    """
    table = UsageTable()
    names = [field.name for field in fields(Used)]
    try:
        for row in values["rows"]:
            used = Used(**{name: row[name] for name in names})
            table.rows[UsageKey(row["ref"], row["principal"], row["route"])] = used
        table.hours_s = [float(one) for one in values["hours_s"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"These values are no usage: {error!r}.") from None
    return table
