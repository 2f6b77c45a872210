"""JSON pages of a day, each in a file of its writer: ``FOLDER/YYYY/MM/DD/WRITER.json``."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.location import Location

__all__ = ["page_name", "read_pages"]

logger = logging.getLogger(__name__)

_Page = TypeVar("_Page")


def page_name(folder: str, day: dt.date, writer: str) -> str:
    """Return the name of a writer's file of a day."""
    return f"{_day_folder(folder, day)}/{writer}.json"


def read_pages(
    home: Location,
    folder: str,
    day: dt.date,
    read: Callable[[dict[str, object]], _Page],
    *,
    version: int,
    leave_out: str = "",
) -> Iterator[_Page]:
    """Yield the pages of a day. Files that are no pages are named in the log and passed over.

    Args:
        folder: the folder with the years.
        day: the day (UTC).
        read: reads a page's values; a KeyError, TypeError or ValueError means that a part is missing or unusable.
        version: the page's ``format``; other releases write another one.
        leave_out: a writer whose page is left out.

    Raises:
        StorageError: the home can't be read.
    """
    of_day = _day_folder(folder, day)
    names = [
        f"{of_day}/{name}" for name in home.names(of_day) if name.endswith(".json") and name != f"{leave_out}.json"
    ]
    for name, data in zip(names, home.read_many(names), strict=True):
        if data is None:  # removed meanwhile
            continue
        try:
            yield _read(data, read, version)
        except InputError as error:
            logger.warning("%s/%s is passed over: %s", home.uri, name, error)


def _day_folder(folder: str, day: dt.date) -> str:
    return f"{folder}/{day:%Y/%m/%d}"


def _read(data: bytes, read: Callable[[dict[str, object]], _Page], version: int) -> _Page:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise InputError(f"it is no JSON: {error}.") from None
    if not isinstance(values, dict) or values.get("format") != version:
        raise InputError("it has another format, as other releases write it.")
    try:
        return read(values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"it lacks a part: {error!r}.") from None
