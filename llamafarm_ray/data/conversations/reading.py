"""Read rows from files of rows, and from exports of other tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamafarm_ray.data.conversations.slack import is_slack_export, slack_threads
from llamafarm_ray.data.conversations.zendesk import is_ticket, ticket_conversation
from llamafarm_ray.data.formats import RecordError
from llamafarm_ray.data.reading import RowResult, digest_of_file, parsed_rows
from llamafarm_ray.data.records import Records, find_records, read_file
from llamafarm_ray.data.training_rows import KINDS, parse_row
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

__all__ = ["read_conversations"]


def read_conversations(source: str) -> Iterator[tuple[str, RowResult]]:
    """Yield each record of a source with its split, parsed into rows.

    Args:
        source: an export of Slack (its folder), files of Zendesk's tickets, or rows: see `find_records`.

    Raises:
        InputError: there is nothing there, or nothing that can be read.
    """
    if "://" in source:
        raise InputError(f"Rows at {source!r} can't be read in place.", hint="Download them first.")
    path = Path(source).expanduser()
    if path.is_dir() and is_slack_export(path):
        yield from (("train", result) for result in _threads(path))
        return
    for split, records in find_records(path).items():
        root = Path(os.path.commonpath([file.path.parent for file in records.files]))
        for result in parsed_rows(_with_tickets(records), root=root):
            yield split, result


def _with_tickets(records: Records) -> Records:
    """Return records of which tickets are read as conversations."""
    return Records(tuple(replace(file, convert=file.convert or _converted) for file in records.files))


def _converted(record: object) -> object:
    return ticket_conversation(record) if is_ticket(record) else record


def _threads(folder: Path) -> Iterator[RowResult]:
    digests: dict[Path, Digest] = {}
    for file, place, record in slack_threads(folder, read_file):
        digests.setdefault(file, digest_of_file(file))
        origin: dict[str, Any] = {"document": file.relative_to(folder).as_posix(), "document_digest": digests[file]}
        try:
            _, rows = parse_row(record)
        except RecordError as error:
            yield RowResult(file, place, KINDS["chat"], [], str(error))
            continue
        yield RowResult(file, place, KINDS["chat"], [{**row, **origin, "passage": ""} for row in rows])
