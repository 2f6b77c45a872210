"""LLaMA-Factory's ``dataset_info.json``: the file of a dataset, and the names of its columns and roles.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llamafarm_ray.data.records.base import BadRecord, Records, RecordsFile
from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["factory_records", "is_factory_description"]

FILE_NAME = "dataset_info.json"

_REMOTE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_KEYS = ("file_name", "formatting", "ranking", "columns", "tags", "split")
_ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
_MEDIA = ("images", "videos", "audios")
_SHARED_COLUMNS = ("system", "tools", "chosen", "rejected", "kto_tag", *_MEDIA)
_COLUMNS = {
    "alpaca": ("prompt", "query", "response", "history", *_SHARED_COLUMNS),
    "sharegpt": ("messages", *_SHARED_COLUMNS),
}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ROLE_TAGS = ("user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")


def is_factory_description(path: Path) -> bool:
    """Return True if a file is a list of datasets as LLaMA-Factory has it; `datasets` writes others of that name."""
    if path.name != FILE_NAME or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    keys = {"file_name", *_REMOTE}
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(entry, dict) and keys & entry.keys() for entry in content.values())
    )


def factory_records(path: Path, names: str, *, find: Callable[[Path], dict[str, Records]]) -> dict[str, Records]:
    """Return the records of the entries of a ``dataset_info.json``.

    Args:
        names: of the entries, with commas between them; may be empty where there is one entry.
        find: finds the records of the file or folder that an entry names.

    Raises:
        InputError: there is no such entry, or it asks for an unavailable feature.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not names and len(entries) > 1:
        raise InputError(f"{path} describes {len(entries)} datasets.", hint=f"Name one: {path}#{next(iter(entries))}")
    files: list[RecordsFile] = []
    for name in names.split(",") if names else entries:
        if name not in entries:
            raise InputError(f"{path} describes no dataset {name!r}.", hint=did_you_mean(name, entries))
        entry, where = entries[name], f"{path}#{name}"
        convert = _converter(entry, where)
        location = path.parent / str(entry["file_name"])
        if not location.exists():
            raise InputError(f"{where}: there is no file {str(location)!r}.", hint="file_name is relative to the list.")
        files += find(location)["train"].converted(convert).files
    return {"train": Records(tuple(files))}


def _converter(entry: Mapping[str, Any], where: str) -> Callable[[object], object]:
    for key, value in entry.items():
        if key in _REMOTE:
            raise InputError(f"{where}: {key} names a dataset elsewhere.", hint="Download it, and give its file_name.")
        if key not in _KEYS and value not in (None, False):
            raise InputError(f"{where}: {key} is not available.", hint=f"Available are {', '.join(_KEYS)}.")
    if entry.get("split") not in (None, "train"):
        raise InputError(f"{where}: split is {entry['split']!r}.", hint="Give the folder as FOLDER#SPLIT instead.")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in _COLUMNS:
        raise InputError(f"{where}: formatting is {formatting!r}.", hint=f"Use {' or '.join(_COLUMNS)}.")
    columns = entry.get("columns") or (_ALPACA_COLUMNS if formatting == "alpaca" else {"messages": "conversations"})
    tags = entry.get("tags") or {}
    _check_names(columns, _COLUMNS[formatting], f"{where}: columns")
    _check_names(tags, _TAGS, f"{where}: tags")
    if entry.get("ranking") and not {"chosen", "rejected"} <= columns.keys():
        raise InputError(f"{where}: ranking is true, and columns has not both 'chosen' and 'rejected'.")
    if formatting == "alpaca":
        return functools.partial(_from_alpaca, dict(columns))
    return functools.partial(_from_sharegpt, {"messages": "conversations", **columns}, {**_TAGS, **tags})


def _check_names(given: object, known: Any, where: str) -> None:
    if not isinstance(given, Mapping):
        raise InputError(f"{where} is {given!r}, not an object.")
    for name in given:
        if name not in known:
            raise InputError(f"{where} has {name!r}, which is not available.", hint=did_you_mean(str(name), known))


def _from_alpaca(columns: Mapping[str, str], record: object) -> object:
    if not isinstance(record, Mapping):
        return record
    found = {name: record.get(column) for name, column in columns.items()}
    prompt, query = found.pop("prompt", None), found.pop("query", None)
    response = found.pop("response", None)
    if "response" not in columns and "chosen" not in columns:
        return {"text": prompt, **found}
    # LLaMA-Factory puts one line end between the two.
    question = "\n".join(text for text in (prompt, query) if isinstance(text, str) and text) or prompt
    return {"instruction": question, "output": response, **found} if response else {"instruction": question, **found}


def _from_sharegpt(columns: Mapping[str, str], tags: Mapping[str, str], record: object) -> object:
    if not isinstance(record, Mapping):
        return record
    found = {name: record.get(column) for name, column in columns.items()}
    turns = found.pop("messages")
    if not isinstance(turns, list):
        return BadRecord(f"has no list of turns as '{columns['messages']}'.")
    for key in ("chosen", "rejected"):
        if isinstance(found.get(key), Mapping):
            found[key] = _turn(tags, found[key])
    return {"conversations": [_turn(tags, turn) for turn in turns], **found}


def _turn(tags: Mapping[str, str], turn: object) -> object:
    if not isinstance(turn, Mapping):
        return turn
    names = {tags[tag]: _TAGS[tag] for tag in _ROLE_TAGS}
    role = turn.get(tags["role_tag"])
    others = {key: value for key, value in turn.items() if key not in (tags["role_tag"], tags["content_tag"])}
    known = names.get(role, role) if isinstance(role, str) else role
    return {**others, "from": known, "value": turn.get(tags["content_tag"])}
