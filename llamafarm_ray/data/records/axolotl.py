"""Axolotl's ``datasets``: the entries of its YAML configuration, each a file with the names of its fields.

The model's own chat template renders all of them; Axolotl's prompt styles ("Below is an instruction...") do not exist
here. Source: https://docs.axolotl.ai/docs/dataset-formats/
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llamafarm_ray.data.records.base import BadRecord, Records
from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["axolotl_records", "is_axolotl_config"]

_ROLES = {"user": ["human", "user"], "assistant": ["gpt", "assistant"], "system": ["system"], "tool": ["tool"]}
_TEMPLATES = "tokenizer_default"
_CHAT_KEYS = frozenset(
    (
        *("field_messages", "field_system", "field_tools", "message_property_mappings", "message_field_role"),
        *("message_field_content", "message_field_training", "roles", "roles_to_train", "train_on_eos"),
        *("drop_system_message", "chat_template", "conversation"),
    )
)
_EVERY_KEY = frozenset(("path", "type", "ds_type", "data_files", "split", "train_on_inputs", "trust_remote_code"))

# Fields of a record as (ours, theirs), by type.
_PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "alpaca": (("instruction", "instruction"), ("input", "input"), ("output", "output")),
    "gpteacher": (("instruction", "instruction"), ("input", "input"), ("output", "response")),
    "alpaca_chat": (("instruction", "instruction"), ("input", "input"), ("output", "response")),
    "alpaca_chat.load_qa": (("question", "question"), ("answer", "answer")),
    "alpaca_chat.load_concise": (("instruction", "instruction"), ("input", "input"), ("output", "response")),
    "alpaca_chat.load_camel_ai": (("question", "message_1"), ("answer", "message_2")),
    "alpaca_w_system": (("system", "system"), ("instruction", "instruction"), ("input", "input"), ("output", "output")),
    "alpaca_w_system.load_open_orca": (("system", "system_prompt"), ("question", "question"), ("answer", "response")),
    "oasst": (("instruction", "INSTRUCTION"), ("output", "RESPONSE")),
    "context_qa": (("context", "article"), ("question", "question"), ("answer", "answer")),
    "context_qa.load_v2": (("context", "context"), ("question", "question"), ("answer", "answer")),
    "summarizetldr": (("question", "article"), ("answer", "summary")),
    "metharme": (("prompt", "prompt"), ("completion", "generation")),
}
_CUSTOM_FIELDS = {
    "field_system": "system",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
}


def is_axolotl_config(path: Path) -> bool:
    """Return True if a file is YAML with Axolotl's list of datasets."""
    if path.suffix.lower() not in {".yaml", ".yml"} or not path.is_file():
        return False
    return isinstance(_load(path).get("datasets"), list)


def axolotl_records(path: Path, *, find: Callable[[Path], dict[str, Records]]) -> dict[str, Records]:
    """Return the records of ``datasets``, and as validation those of ``test_datasets``.

    Args:
        find: finds the records of the file or folder that an entry names.

    Raises:
        InputError: an entry asks for an unavailable feature.
    """
    content, splits = _load(path), {}
    for split, key in (("train", "datasets"), ("validation", "test_datasets")):
        files = [
            file
            for index, entry in enumerate(content.get(key) or [])
            for file in _records(entry, f"{path}: {key}[{index}]", path.parent, find).files
        ]
        if files:
            splits[split] = Records(tuple(files))
    if "train" not in splits:
        raise InputError(f"{path}: datasets is empty.")
    return splits


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} can't be read: {str(error).splitlines()[0]}.") from error
    return content if isinstance(content, dict) else {}


def _records(entry: object, where: str, folder: Path, find: Callable[[Path], dict[str, Records]]) -> Records:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise InputError(f"{where} has no path.")
    convert = _converter(entry, where)
    base = next((base for base in (Path(entry["path"]), folder / entry["path"]) if base.exists()), None)
    if base is None:
        raise InputError(
            f"{where}: there is no file or folder {entry['path']!r}.", hint="Hub datasets have to be downloaded first."
        )
    listed = entry.get("data_files")
    if listed:
        names = [listed] if isinstance(listed, str) else listed
        return Records(tuple(file for name in names for file in find(base / name)["train"].converted(convert).files))
    split = entry.get("split")
    located = Path(f"{base}#{split}") if base.is_dir() and split else base
    return find(located)["train"].converted(convert)


def _converter(entry: Mapping[str, Any], where: str) -> Callable[[object], object]:
    kind = entry.get("type", "chat_template")
    known = _EVERY_KEY | (_CHAT_KEYS if kind in ("chat_template", "sharegpt") else {"field"})
    for key, value in entry.items():
        if key not in known and value not in (None, False, [], ""):
            raise InputError(f"{where}: {key} is not available.", hint=did_you_mean(str(key), known))
    if entry.get("train_on_inputs"):
        raise InputError(f"{where}: train_on_inputs is true, but prompts are never trained.", hint="Remove it.")
    if entry.get("trust_remote_code"):
        raise InputError(f"{where}: trust_remote_code is true, but no code of datasets is run.", hint="Remove it.")
    if isinstance(kind, dict):
        return _custom(kind, where)
    if kind in ("chat_template", "sharegpt"):
        return _chat(entry, where, from_value=kind == "sharegpt")
    if kind in ("completion", "pretrain"):
        return functools.partial(_renamed, (("text", str(entry.get("field") or "text")),))
    if kind not in _PAIRS:
        types = (*_PAIRS, "chat_template", "completion")
        raise InputError(f"{where}: type is {kind!r}, which is not available.", hint=did_you_mean(str(kind), types))
    return functools.partial(_renamed, _PAIRS[kind])


def _custom(kind: Mapping[str, object], where: str) -> Callable[[object], object]:
    """Return the conversion of a ``type`` that is written out field by field."""
    for key, value in kind.items():
        if key not in _CUSTOM_FIELDS and value:
            hint = "The model's chat template renders the question and its answer; leave the format out."
            raise InputError(f"{where}: type.{key} is not available.", hint=hint)
    pairs = ((ours, str(kind.get(key) or ours)) for key, ours in _CUSTOM_FIELDS.items())
    return functools.partial(_renamed, tuple(pairs))


def _chat(entry: Mapping[str, Any], where: str, *, from_value: bool) -> Callable[[object], object]:
    template = entry.get("chat_template")
    if template and not str(template).startswith(_TEMPLATES):
        raise InputError(
            f"{where}: chat_template is {template!r}; the base model's own is used.",
            hint="Remove it, or put the template into the model's folder as chat_template.jinja.",
        )
    if entry.get("train_on_eos", "turn") not in (None, "turn"):
        raise InputError(f"{where}: train_on_eos is {entry['train_on_eos']!r}; only 'turn' is available.")
    trained, mark = entry.get("roles_to_train", ["assistant"]), entry.get("message_field_training")
    if trained not in (["assistant"], ["gpt"], ["assistant", "gpt"]) and not (mark and trained == []):
        raise InputError(
            f"{where}: roles_to_train is {trained!r}; only what the assistant says is trained.",
            hint='Use ["assistant"], or [] with message_field_training.',
        )
    mapped = dict(entry.get("message_property_mappings") or {})
    role, content = ("from", "value") if from_value else ("role", "content")
    names = {
        str(mapped.pop("role", entry.get("message_field_role") or role)): "role",
        str(mapped.pop("content", entry.get("message_field_content") or content)): "content",
        **({str(mark): "train"} if mark else {}),
        **{str(theirs): ours for ours, theirs in mapped.items()},
    }
    roles = entry.get("roles") or _ROLES
    return _ChatEntry(
        messages=entry.get("field_messages") or ("conversations" if from_value else "messages"),
        system=entry.get("field_system") or "system",
        tools=entry.get("field_tools") or "tools",
        names=names,
        roles={str(theirs): ours for ours, listed in roles.items() for theirs in listed},
        drop_system=bool(entry.get("drop_system_message")),
        marked_only=bool(mark) and trained == [],
    )


def _renamed(pairs: tuple[tuple[str, str], ...], record: object) -> object:
    if not isinstance(record, Mapping):
        return record
    return {ours: record[theirs] for ours, theirs in pairs if record.get(theirs) not in (None, "")}


@dataclass(frozen=True, slots=True)
class _ChatEntry:
    """An entry of conversations.

    Args:
        messages: the field of the turns.
        system: that of a system prompt beside them.
        names: our name of each key of a turn.
        roles: our role for each of theirs.
        drop_system: leave system prompts out.
        marked_only: train only turns that are marked.
    """

    messages: str
    system: str
    tools: str
    names: Mapping[str, str]
    roles: Mapping[str, str]
    drop_system: bool
    marked_only: bool

    def __call__(self, record: object) -> object:
        if not isinstance(record, Mapping):
            return record
        turns = record.get(self.messages)
        if not isinstance(turns, list):
            return BadRecord(f"has no list of turns as '{self.messages}'.")
        converted = [self._turn(turn) if isinstance(turn, Mapping) else turn for turn in turns]
        system = record.get(self.system)
        if self.drop_system:
            system = None
            converted = [turn for turn in converted if not (isinstance(turn, dict) and turn["role"] == "system")]
        return {"messages": converted, "tools": record.get(self.tools), "system": system}

    def _turn(self, turn: Mapping[str, object]) -> dict[str, object]:
        made = {self.names.get(key, key): value for key, value in turn.items()}
        role = made.get("role")
        made["role"] = self.roles.get(role, role) if isinstance(role, str) else role
        if made["role"] != "assistant":
            made.pop("train", None)
        elif self.marked_only:
            made["train"] = bool(made.get("train"))
        return made
