"""Read rows from files of rows, and from exports and logs of other tools."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from llamafarm_ray.data.conversations.conversation import Conversation
from llamafarm_ray.data.conversations.records import as_chat
from llamafarm_ray.data.conversations.slack import Files, is_slack_export, slack_conversations
from llamafarm_ray.data.formats import RecordError
from llamafarm_ray.data.reading import RowResult, parsed_rows
from llamafarm_ray.data.records import Records, find_records
from llamafarm_ray.data.training_rows import KINDS, parse_row
from llamafarm_ray.errors import InputError

__all__ = ["read_conversations"]

_MAX_DAY_BYTES = 256 * 1024 * 1024


def read_conversations(source: str, *, root: Path | None = None) -> Iterator[tuple[str, RowResult]]:
    """Yield each record of a source with its split, parsed into rows.

    Args:
        source: an export of Slack (its folder, or the zip file), or files of tickets, logged requests, feedback or
            rows: see `find_records`.
        root: folder that files are named relative to, as the documents of their rows; by default the one that all
            files of the source are in.

    Raises:
        InputError: there is nothing there, or nothing that can be read.
    """
    if "://" in source:
        raise InputError(f"Rows at {source!r} can't be read in place.", hint="Download them first.")
    path = Path(source).expanduser()
    if path.is_dir():
        names = {file.relative_to(path).as_posix(): file.read_bytes for file in path.rglob("*") if file.is_file()}
        if is_slack_export(names):
            yield from _of_slack(names, path)
            return
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {one: partial(_member, archive, one) for one in archive.namelist() if not one.endswith("/")}
            if not is_slack_export(members):
                raise InputError(f"{path} is no export of Slack.", hint="Unpack it.")
            yield from _of_slack(members, path)
        return
    splits = find_records(path)
    files = [file.path for records in splits.values() for file in records.files]
    root = root or Path(os.path.commonpath([file.parent for file in files]))
    for split, records in splits.items():
        for result in parsed_rows(_as_chats(records), root=root):
            yield split, result


def _as_chats(records: Records) -> Records:
    """Return records of which tickets, logged requests and feedback are read as chats."""
    return Records(tuple(replace(file, convert=file.convert or as_chat) for file in records.files))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        content = file.read(_MAX_DAY_BYTES + 1)
    if len(content) > _MAX_DAY_BYTES:
        raise InputError(f"{name} unpacks to more than {_MAX_DAY_BYTES >> 20} MiB.")
    return content


def _of_slack(files: Files, path: Path) -> Iterator[tuple[str, RowResult]]:
    try:
        for result in _thread_rows(slack_conversations(files, path.name)):
            yield "train", result
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"The export of Slack {path} can't be read: {error}.") from error


def _thread_rows(conversations: Iterable[Conversation]) -> Iterator[RowResult]:
    chat = KINDS["chat"]
    for number, one in enumerate(conversations, start=1):
        file, place = Path(one.document), f"thread {number}"
        if one.dropped:
            yield RowResult(file, place, chat, [], f"is a {one.dropped}.")
            continue
        try:
            _, rows = parse_row({"messages": [message.to_turn() for message in one.messages]})
        except RecordError as error:
            yield RowResult(file, place, chat, [], str(error))
            continue
        origin = {"document": one.document, "document_digest": one.document_digest, "passage": ""}
        yield RowResult(file, place, chat, [{**row, **origin} for row in rows])
