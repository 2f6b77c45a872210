"""Slack's exports: ``users.json``, lists of channels, and a folder a channel with a file of messages a day.

A thread is a conversation: its first author asks, and everybody else answers. The layout is described at
https://slack.com/help/articles/220556107.
"""

from __future__ import annotations

import html
import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from llamafarm_ray.data.conversations.conversation import Conversation, turns_of
from llamafarm_ray.data.readers.base import DocumentError
from llamafarm_ray.types import Digest

__all__ = ["is_slack_export", "slack_conversations"]

_LISTS = frozenset({"channels.json", "groups.json", "dms.json", "mpims.json"})
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError)
_WRITTEN = frozenset({None, "bot_message", "file_share", "me_message", "thread_broadcast"})
"""Kinds of messages that people wrote; others report new members, topics and the like."""
_MENTION = re.compile(r"<([@#!]?)([^<>|]+)(?:\|([^<>]*))?>")

Files = Mapping[str, Callable[[], bytes]]
"""Files of an export by their paths in it."""


def is_slack_export(names: Iterable[str]) -> bool:
    """Return True if these are paths of the files of an export."""
    found = set(names)
    return "users.json" in found and (not _LISTS.isdisjoint(found) or any(map(_is_day, found)))


def slack_conversations(
    files: Files, name: str, *, skip: Callable[[str, str], None]
) -> Iterator[tuple[str, Iterator[Conversation]]]:
    """Yield the channels of an export, each with its threads; messages without a thread are dropped.

    Args:
        skip: called with the path of each file that can't be read, and the reason.
    """
    people = _people(_read("users.json", files, skip)[1])
    channels: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files):
        if _is_day(path):
            channels[PurePosixPath(path).parent.name].append(path)
    for channel, days in sorted(channels.items()):
        read = [_read(day, files, skip) for day in days]
        messages = [message for _, of_day in read for message in of_day]
        document, digest = f"{name}/{channel}", Digest.of(b"\n".join(content for content, _ in read))
        yield document, _threads(messages, people, document, digest)


def _read(path: str, files: Files, skip: Callable[[str, str], None]) -> tuple[bytes, list[object]]:
    """Return the content of a file, and the list in it; nothing of one that can't be read."""
    try:
        content = files[path]()
        listed = json.loads(content)
    except DocumentError as error:
        skip(path, str(error))
    # What zipfile and zlib raise on damaged and encrypted members, and json on what is none.
    except (OSError, ValueError, RecursionError, RuntimeError, KeyError, EOFError, *_DAMAGED) as error:
        skip(path, f"it can't be read as JSON ({type(error).__name__}: {error}).")
    else:
        if isinstance(listed, list):
            return content, listed
        skip(path, "it is not the list that Slack writes.")
    return b"", []


def _is_day(path: str) -> bool:
    parts = PurePosixPath(path)
    return len(parts.parts) == 2 and _DAY.fullmatch(parts.name) is not None  # channel and day


def _people(users: list[object]) -> dict[str, str]:
    names = {}
    for user in users:
        if not isinstance(user, Mapping):
            continue
        profile = user.get("profile")
        profile = profile if isinstance(profile, Mapping) else {}
        known = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"), user.get("name"))
        names[str(user.get("id"))] = next((name for name in known if name and isinstance(name, str)), "someone")
    return names


def _threads(messages: list[Any], people: Mapping[str, str], document: str, digest: Digest) -> Iterator[Conversation]:
    threads: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for message in messages:
        if not _is_sound(message):
            yield Conversation(document, digest, dropped="message that is not sound")
            continue
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


def _is_sound(message: object) -> bool:
    """Return True for a message with the fields that are read, of the types that Slack writes."""
    if not isinstance(message, Mapping):
        return False
    fields = [message.get(name) for name in ("type", "subtype", "ts", "thread_ts", "text")]
    try:
        float(message["ts"])
        "".join(field for field in fields if isinstance(field, str)).encode()
    except (KeyError, TypeError, ValueError):  # half a surrogate pair is a ValueError
        return False
    return all(field is None or isinstance(field, str) for field in fields)


def _author(message: Mapping[str, object]) -> str:
    return str(message.get("user") or message.get("bot_id") or message.get("username") or "")


def _text(message: Mapping[str, object], people: Mapping[str, str]) -> str:
    """Return the text of a message without Slack's markup: names for people and channels, labels for links."""

    def plain(match: re.Match[str]) -> str:
        sign, target, label = match[1], match[2], match[3]
        if sign == "@":
            return f"@{people.get(target, label or 'someone')}"
        if sign == "#":
            return f"#{label or target}"
        return f"@{label or target}" if sign == "!" else label or target

    return html.unescape(_MENTION.sub(plain, str(message.get("text") or ""))).strip()
