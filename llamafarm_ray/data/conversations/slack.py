"""Slack's exports: ``users.json``, lists of channels, and a folder a channel with a file of messages a day.

A thread is a conversation: its first author asks, and everybody else answers. The layout is described at
https://slack.com/help/articles/220556107.
"""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from llamafarm_ray.data.conversations.conversation import Conversation, turns_of
from llamafarm_ray.types import Digest

__all__ = ["is_slack_export", "slack_conversations"]

_LISTS = frozenset({"channels.json", "groups.json", "dms.json", "mpims.json"})
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_WRITTEN = frozenset({None, "bot_message", "file_share", "me_message", "thread_broadcast"})
"""Kinds of messages that somebody wrote; others tell of people who join, of topics and the like."""
_MENTION = re.compile(r"<([@#!]?)([^<>|]+)(?:\|([^<>]*))?>")

Files = Mapping[str, Callable[[], bytes]]
"""Files of an export by their paths in it."""


def is_slack_export(names: Iterable[str]) -> bool:
    """Return True if these are paths of the files of an export."""
    found = set(names)
    return "users.json" in found and (not _LISTS.isdisjoint(found) or any(map(_is_day, found)))


def slack_conversations(files: Files, name: str) -> Iterator[Conversation]:
    """Yield the threads of an export; messages without a thread are dropped.

    Args:
        files: of the export.
        name: of the export, which the names of its channels follow.

    Raises:
        ValueError: a file of the export is not JSON, or not what Slack writes.
    """
    people = _people(json.loads(files["users.json"]()))
    channels: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files):
        if _is_day(path):
            channels[PurePosixPath(path).parent.name].append(path)
    for channel, days in sorted(channels.items()):
        contents = [files[day]() for day in days]
        messages = [message for content in contents for message in json.loads(content)]
        document, digest = f"{name}/{channel}", Digest.of(b"\n".join(contents))
        yield from _threads(messages, people, document, digest)


def _is_day(path: str) -> bool:
    parts = PurePosixPath(path)
    return len(parts.parts) == 2 and _DAY.fullmatch(parts.name) is not None  # noqa: PLR2004  channel and day


def _people(users: list[dict[str, Any]]) -> dict[str, str]:
    names = {}
    for user in users:
        profile = user.get("profile") or {}
        known = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"), user.get("name"))
        names[str(user.get("id"))] = next((name for name in known if name), "someone")
    return names


def _threads(
    messages: list[dict[str, Any]], people: Mapping[str, str], document: str, digest: Digest
) -> Iterator[Conversation]:
    threads: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in messages:
        if message.get("type", "message") != "message" or message.get("subtype") not in _WRITTEN:
            continue
        if message.get("thread_ts"):
            threads[message["thread_ts"]].append(message)
        else:
            yield Conversation(document, digest, dropped="message without a thread")
    for started, thread in sorted(threads.items()):
        ordered = sorted(thread, key=lambda message: float(message["ts"]))
        if ordered[0]["ts"] != started:
            yield Conversation(document, digest, dropped="thread without its first message")
            continue
        asker = _author(ordered[0])
        turns = turns_of((_author(message) == asker, _text(message, people)) for message in ordered)
        if turns:
            yield Conversation(document, digest, turns)
        else:
            sample = _text(ordered[0], people)
            yield Conversation(document, digest, dropped="thread without an answer", sample=sample)


def _author(message: Mapping[str, Any]) -> str:
    return str(message.get("user") or message.get("bot_id") or message.get("username") or "")


def _text(message: Mapping[str, Any], people: Mapping[str, str]) -> str:
    """Return the text of a message without Slack's markup: names for people and channels, labels for links."""

    def plain(match: re.Match[str]) -> str:
        sign, target, label = match[1], match[2], match[3]
        if sign == "@":
            return f"@{people.get(target, label or 'someone')}"
        if sign == "#":
            return f"#{label or target}"
        return f"@{label or target}" if sign == "!" else label or target

    return html.unescape(_MENTION.sub(plain, str(message.get("text") or ""))).strip()
