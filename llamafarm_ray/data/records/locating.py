"""The files of a dataset, by split: one file, a folder of shards or of `datasets`, another tool's description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, TypeVar

from llamafarm_ray.data.records.axolotl import axolotl_records, is_axolotl_config
from llamafarm_ray.data.records.base import Records, RecordsFile
from llamafarm_ray.data.records.compression import COMPRESSIONS, file_type, stem_of
from llamafarm_ray.data.records.llama_factory import factory_records, is_factory_description
from llamafarm_ray.data.records.reading import READERS, TABLES
from llamafarm_ray.errors import InputError, did_you_mean

__all__ = [
    "RECORD_SUFFIXES",
    "SUPPORTED_FILES",
    "chosen_splits",
    "find_records",
    "is_described_file",
    "is_record_file",
    "named_beside",
    "saved_by_datasets",
    "split_of_path",
    "validation_path",
]

RECORD_SUFFIXES = tuple(READERS)
SUPPORTED_FILES = (
    f"A dataset is a built folder, a folder of `datasets`, or files in {', '.join(RECORD_SUFFIXES)} "
    "(text ones also .gz and .zst)."
)

Files = TypeVar("Files")

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
}
_SPLIT_WORD = re.compile(r"[a-z]+(?:_[a-z]+)*")
_NOT_ROWS = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "config.json"})


def is_record_file(path: Path) -> bool:
    """Return True if a path's name is that of a file of examples."""
    compressed = path.suffix.lower() in COMPRESSIONS
    return file_type(path) in READERS and not (compressed and file_type(path) in TABLES)


def is_described_file(name: str) -> bool:
    """Return True for the name of a file that describes a dataset, and holds none of its rows."""
    return name in _NOT_ROWS or name.endswith("report.json")


def find_records(path: Path) -> dict[str, Records]:
    """Find the files of a dataset that was made elsewhere, by split: ``train``, and ``validation`` if there is one.

    A ``test`` split is for validation where there is no other; else it is left alone. ``FOLDER#test`` takes that
    split alone, and ``dataset_info.json#name`` an entry of LLaMA-Factory's list.

    Args:
        path: of a file, a folder, LLaMA-Factory's ``dataset_info.json``, or an Axolotl configuration.

    Raises:
        InputError: there is nothing there, or nothing that can be read.
    """
    whole, name = _with_name(path)
    if whole.is_dir():
        return chosen_splits(whole, _in_folder(whole), name)
    if is_factory_description(whole):
        return factory_records(whole, name, find=find_records)
    if is_axolotl_config(whole):
        return axolotl_records(whole, find=find_records)
    if name:
        raise InputError(f"{str(path)!r} names a part of a file that has none.", hint="Leave out what follows '#'.")
    if not is_record_file(whole):
        raise InputError(f"{str(path)!r} is no dataset.", hint=SUPPORTED_FILES)
    beside = validation_path(whole)
    files = {"train": whole} | ({"validation": beside} if beside.is_file() else {})
    return {split: Records((RecordsFile(file),)) for split, file in files.items()}


def named_beside(path: Path, word: str, suffix: str = "") -> Path:
    """Return the path of a file that belongs to another one: ``qa.report.json`` is beside ``qa.jsonl.gz``."""
    stem = stem_of(path)
    return path.with_name(f"{stem}.{word}{suffix or path.name.removeprefix(stem)}")


def validation_path(path: Path) -> Path:
    """Return where the validation rows of a file lie: ``qa.json`` has ``qa.validation.json``."""
    return named_beside(path, "validation")


def _with_name(path: Path) -> tuple[Path, str]:
    """Return a path that exists, and the name of a part of it that was given after ``#``."""
    if path.exists():
        return path, ""
    text, _, name = str(path).rpartition("#")
    if text and name and Path(text).exists():
        return Path(text), name
    raise InputError(f"There is no dataset at {str(path)!r}.", hint="`llamafarm models create-dataset` makes datasets.")


def chosen_splits(folder: Path | str, splits: dict[str, Files], name: str = "") -> dict[str, Files]:
    """Return the splits to use of all that were found: ``train``, and ``validation`` if there is one.

    Args:
        folder: of the dataset, for messages.
        splits: files found by the names of splits; changed.
        name: of the only split to take; "" for the usual ones.

    Raises:
        InputError: there is no such split.
    """
    if name:
        wanted = name if name in splits else _SPLIT_NAMES.get(name, name)
        if wanted not in splits:
            raise InputError(f"{folder} has no split {name!r}.", hint=did_you_mean(name, splits))
        return {"train": splits[wanted]}
    for role in ("train", "validation", "test"):
        # "train_sft" alone is the training split; beside "train_gen" it has to be named.
        close = [split for split in splits if _SPLIT_NAMES.get(split.split("_")[0]) == role]
        if role not in splits and len(close) == 1:
            splits[role] = splits.pop(close[0])
    if "train" not in splits:
        names = ", ".join(splits)
        raise InputError(
            f"{folder} has no split 'train', only {names}.", hint=f"Name one: {folder}#{next(iter(splits))}"
        )
    held_out = splits.get("validation") or splits.get("test")
    return {"train": splits["train"], **({"validation": held_out} if held_out else {})}


def _in_folder(folder: Path) -> dict[str, Records]:
    files: dict[str, list[Path]] = {}
    for split, file in saved_by_datasets(folder) or _shards(folder):
        files.setdefault(split, []).append(file)
    if not files:
        raise InputError(f"{str(folder)!r} is no dataset: it has no dataset.json and no rows.", hint=SUPPORTED_FILES)
    return {split: Records(tuple(map(RecordsFile, paths))) for split, paths in files.items()}


def saved_by_datasets(folder: Path) -> list[tuple[str, Path]]:
    """Return the files of a folder that ``save_to_disk`` wrote, in their order; none of another folder."""
    if (folder / "dataset_dict.json").is_file():
        names = _read(folder / "dataset_dict.json").get("splits", [])
        return [
            (_split_of(str(name)) or str(name), file)
            for name in names
            for _, file in saved_by_datasets(folder / str(name))
        ]
    if not (folder / "state.json").is_file():
        return []
    listed = _read(folder / "state.json").get("_data_files", [])
    found = [folder / str(entry["filename"]) for entry in listed]
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise InputError(f"{folder} lacks the file {missing[0].name}, which its state.json names.")
    return [("train", file) for file in found]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what `datasets` writes.")
    return content


def _shards(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the shards of a folder and of the folders in it, with the split that their names tell."""
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith((".", "_")) for part in inside.parts)
        described = file.name == "dataset.json" and (file.parent / "train").is_dir()  # by our own build
        if hidden or described or is_described_file(file.name):
            continue
        if is_record_file(file) and file.is_file():
            yield split_of_path(inside), file


def split_of_path(inside: PurePath) -> str:
    """Return the split that the path of a file in a dataset's folder names; ``train`` if it names none."""
    # "qa.validation.jsonl", "validation/part-0.parquet", "data/validation-00000-of-00001.parquet"
    parts = (stem_of(Path(inside)).rpartition(".")[2], *reversed(inside.parent.parts), inside.name)
    return next((split for split in map(_split_of, parts) if split), "train")


def _split_of(name: str) -> str:
    """Return the split that a name begins with, "" if it names none; "train_sft" is a split of its own."""
    found = _SPLIT_WORD.match(name.lower())
    word = found[0] if found else ""
    if word in _SPLIT_NAMES:
        return _SPLIT_NAMES[word]
    return word if "_" in word and word.split("_")[0] in _SPLIT_NAMES else ""
