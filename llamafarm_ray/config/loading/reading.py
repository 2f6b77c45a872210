"""Read a file to plain values: JSON, or YAML 1.2's core schema, with an error that explains a broken file."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import yaml

from llamafarm_ray.config.loading.yaml_core import CoreLoader, Table
from llamafarm_ray.errors import InputError

__all__ = ["MAX_FILE_BYTES", "read_file"]

MAX_FILE_BYTES = 1_000_000
_MAX_DEPTH = 40
_MAX_VALUES = 100_000


def read_file(path: Path) -> Table:
    """Read a JSON or YAML file whose top level is a mapping.

    Args:
        path: ``.json`` is read as JSON, ``.yaml`` and ``.yml`` as YAML; any other file by how it begins.

    Raises:
        InputError: there is no such file, or it is no readable JSON or YAML; with line and column.
    """
    text = _read_text(path)
    is_json = path.suffix.lower() == ".json" or (
        path.suffix.lower() not in (".yaml", ".yml") and text.lstrip().startswith("{")
    )
    value = _parse_json(text, str(path)) if is_json else _parse_yaml(text, str(path))
    if not isinstance(value, Table):
        kind = "is empty" if value is None else f"holds a {_kind(value)} at its top level"
        raise InputError(f"{path} {kind}.", hint="A configuration is a mapping of keys such as fine_tuning.")
    _check_size(value, str(path))
    return value


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder.", hint="Name a JSON or YAML file in it.")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.", hint=_near_files(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{str(path)!r} can't be read: {reason}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path} has more than {MAX_FILE_BYTES:,} bytes.", hint="That is no configuration.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8 text: byte 0x{content[error.start]:02x} in line {line}.", hint="Save it as UTF-8."
        ) from None


def _near_files(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
    except (OSError, ValueError):
        return f"There is no folder {path.parent} either."
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    configs = [name for name in names if name.endswith((".json", ".yaml", ".yml"))][:8]
    return f"In that folder there is: {', '.join(configs)}." if configs else ""


def _parse_json(text: str, source: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=Table.of_pairs)
    except json.JSONDecodeError as error:
        raise InputError(f"{source} is broken JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise InputError(f"{source} is nested too deeply.") from None
    except ValueError as error:  # a number with thousands of digits
        raise InputError(f"{source} is broken JSON: {error}.") from None


def _parse_yaml(text: str, source: str) -> object:
    try:
        return yaml.load(text, Loader=CoreLoader)  # noqa: S506 (CoreLoader is stricter than SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = (error.problem or error.context or "can't be read").rstrip(".")
        raise InputError(f"{source} is broken YAML: {place}{problem}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise InputError(
            f"{source} is broken YAML: line {line}, column {column}: {text[error.position]!a} is not allowed."
        ) from None
    except RecursionError:
        raise InputError(f"{source} is nested too deeply.") from None


def _check_size(value: object, source: str) -> None:
    """Refuse a small file with huge values: YAML's anchors can multiply, or contain themselves."""
    waiting, num_values = [(value, 1)], 0
    while waiting:
        item, depth = waiting.pop()
        num_values += 1
        if depth > _MAX_DEPTH:
            raise InputError(f"{source} is nested too deeply.", hint=f"{_MAX_DEPTH} levels are allowed.")
        if num_values > _MAX_VALUES:
            raise InputError(f"{source} holds too many values.", hint=f"{_MAX_VALUES:,} are allowed.")
        if isinstance(item, dict):
            waiting += [(below, depth + 1) for below in item.values()]
        elif isinstance(item, list):
            waiting += [(below, depth + 1) for below in item]


def _kind(value: object) -> str:
    return {list: "list", str: "text", bool: "true or false"}.get(type(value), "number")
