"""Register an evaluation set: questions, a custom evaluation, or a benchmark's data."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from llamafarm_ray.data.records import read_file
from llamafarm_ray.data.records.base import BadRecord
from llamafarm_ray.errors import ConflictError, InputError
from llamafarm_ray.evaluation.benchmarks.tasks import DATA_FILES
from llamafarm_ray.evaluation.custom.description import find_set, read_description
from llamafarm_ray.evaluation.custom.questions import read_questions
from llamafarm_ray.evaluation.question_rows import read_rows
from llamafarm_ray.registry import DatasetRegistered, RegistryApi, check_name
from llamafarm_ray.registry.commands import ContentMovedError, RegisterDataset
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.types import ModelRef
from llamafarm_ray.workflows.datasets.registered import ListedDataset, find_dataset
from llamafarm_ray.workflows.evaluation.stored_sets import DATA, DESCRIPTION, QUESTIONS, SCORER

__all__ = ["register_set"]

_MAX_PUBLISHES: Final = 5
_FORM: Final = 'A row is {"question": "...", "answers": ["..."]}, or has "prompt" or "messages" instead.'


def register_set(registry: RegistryApi, path: Path, *, name: str | None = None, reason: str = "") -> ListedDataset:
    """Store the files of an evaluation set in the home, and register them as a dataset.

    Questions are stored row by row in one form, so that the same rows have the same digest in any file.

    Args:
        registry: registry that gets the set.
        path: a JSONL or JSON file of questions, a YAML or JSON file that describes a custom evaluation, or a folder
            with a benchmark's data.
        name: the set's name; the file's by default.
        reason: for the history.

    Raises:
        InputError: the name, a file or a row is unusable, or the scorer is in a module, which can't be stored.
        AccessDeniedError: the principal may not register under that name.
    """
    name = name or path.resolve().stem
    check_name(name)
    registry.allow(Action.REGISTER_DATASET, ModelRef(name).namespace, target=name)
    with tempfile.TemporaryDirectory(prefix="llamafarm-set-") as folder:
        num_rows = _gather(path.expanduser(), Path(folder))
        for _ in range(_MAX_PUBLISHES):
            generations = registry.refresh().generations
            manifest = registry.content.publish(Path(folder))
            event = DatasetRegistered(
                name=name,
                digest=manifest.digest,
                num_train=0,
                num_validation=num_rows,
                manifest=manifest.digest,
            )
            blobs = (manifest.digest, *(entry.digest for entry in manifest.files))
            stored = {digest: generations.get(digest, 0) for digest in blobs}
            try:
                registry.submit(RegisterDataset(event, stored), reason=reason or f"datasets register: {path.name}")
            except ContentMovedError:  # a collector condemned some of it meanwhile: store it anew
                continue
            return find_dataset(registry, f"{name}@{manifest.digest}")
    raise ConflictError("Garbage collection kept condemning what was being published.", hint="Try again.")


def _gather(path: Path, folder: Path) -> int:
    """Copy a set's files into a folder in their stored form, and return the number of rows."""
    if path.is_dir():
        return _gather_data(path, folder / DATA)
    if not path.is_file():
        raise InputError(f"There is no file or folder {path}.", hint="Give questions, or a benchmark's data.")
    if _is_description(path):
        return _gather_described(path, folder)
    return _gather_questions(path, folder, needs_answers=True)


def _is_description(path: Path) -> bool:
    if path.suffix in {".yaml", ".yml"}:
        return True
    if path.suffix != ".json":
        return False
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8-sig")), dict)
    except (OSError, ValueError, RecursionError):
        return False  # read as questions, it says what is wrong


def _gather_questions(path: Path, folder: Path, *, needs_answers: bool) -> int:
    read_questions(path, needs_answers=needs_answers)
    rows = [row for row, _ in read_rows(path, _FORM)]
    _write(folder / QUESTIONS, rows)
    return len(rows)


def _gather_described(path: Path, folder: Path) -> int:
    find_set(str(path))  # every mistake in it is said here
    described = read_description(path)
    scorer = described.scorer
    if ":" in scorer:
        where, _, function = scorer.rpartition(":")
        if not where.endswith(".py"):
            raise InputError(
                f"{path}: the scorer {scorer!r} is in a module, which can't be stored with the set.",
                hint="Name a file: scorer.py:function.",
            )
        shutil.copyfile(path.parent / Path(where).expanduser(), folder / SCORER)
        scorer = f"{SCORER}:{function}"
    questions = path.parent / Path(described.questions).expanduser()
    num_rows = _gather_questions(questions, folder, needs_answers=":" not in scorer)
    stored = described.model_copy(update={"questions": QUESTIONS, "scorer": scorer})
    text = json.dumps(stored.model_dump(mode="json", exclude_none=True), sort_keys=True, indent=1)
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")
    return num_rows


def _gather_data(path: Path, folder: Path) -> int:
    """Copy the files of splits, and leave others out."""
    found = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix in DATA_FILES)
    if not found:
        raise InputError(
            f"{path} has no data of a benchmark.", hint="Put a file for each split there: test.jsonl, or test.parquet."
        )
    num_rows = 0
    for file in found:
        target = folder / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        for place, record in read_file(file):
            if isinstance(record, BadRecord):
                raise InputError(f"{file}, {place} {record.reason}")
            num_rows += 1
    return num_rows


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=True) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
