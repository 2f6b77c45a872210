"""Slack's export: a folder for each channel with a file for each day, threads as conversations.

Source of the format: https://slack.com/help/articles/220556107 (a list of messages with type, user, ts, thread_ts and
text). The one who begins a thread asks; what others reply is the answer. Messages outside of threads, of bots and of
joins and topics are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llamafarm_ray.data.conversations.turns import conversation

__all__ = ["is_slack_export", "slack_threads"]

Read = Callable[[Path], Iterable[tuple[str, Any]]]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_LINK = re.compile(r"<(?P<target>[^<>|]+)(?:\|(?P<label>[^<>]*))?>")


def is_slack_export(folder: Path) -> bool:
    """Return True for a folder with ``users.json`` and channels of days."""
    return (folder / "users.json").is_file() and any(_days(folder))


def _days(folder: Path) -> Iterator[Path]:
    yield from (file for file in sorted(folder.glob("*/*.json")) if _DAY.fullmatch(file.name))


def slack_threads(folder: Path, read: Read) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    """Yield each thread as a record of messages, with the file in which it begins and its place.

    Args:
        folder: the export.
        read: returns the records of a file with their places.
    """
    names = {user["id"]: _name(user) for _, user in read(folder / "users.json") if isinstance(user, Mapping)}
    threads: dict[tuple[Path, str], list[tuple[Path, str, Mapping[str, Any]]]] = {}
    for file in _days(folder):
        for place, message in read(file):
            if isinstance(message, Mapping) and message.get("type") == "message" and not message.get("subtype"):
                thread = str(message.get("thread_ts") or message.get("ts"))
                threads.setdefault((file.parent, thread), []).append((file, place, message))
    for messages in threads.values():
        messages.sort(key=lambda each: float(each[2].get("ts") or 0))
        file, place, first = messages[0]
        said = ((str(each.get("user")), _plain(str(each.get("text") or ""), names)) for _, _, each in messages)
        yield file, place, conversation(said, asks=str(first.get("user")))


def _name(user: Mapping[str, Any]) -> str:
    profile = user.get("profile") or {}
    return str(profile.get("display_name") or user.get("real_name") or user.get("name") or user["id"])


def _plain(text: str, names: Mapping[str, str]) -> str:
    """Return a message without Slack's marks: mentions by name, links by their label or address."""

    def shown(match: re.Match[str]) -> str:
        target, label = match["target"], match["label"]
        if target.startswith("@"):
            return f"@{label or names.get(target[1:], target[1:])}"
        return label or target.lstrip("#!")

    text = _LINK.sub(shown, text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
