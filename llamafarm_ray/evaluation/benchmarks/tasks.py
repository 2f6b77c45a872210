"""Tasks of lm-eval by name, with their data from the hub or from local files."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamafarm_ray.errors import InputError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

__all__ = ["DATA_FILES", "check_installed", "leaves", "load_tasks", "local_dataset", "task_manager"]

DATA_FILES: Final = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""Types of files with a split's data, and the reader of each."""


def check_installed() -> None:
    """Check that lm-eval is installed.

    Raises:
        UnsupportedError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UnsupportedError(
            "Benchmarks need lm-eval, which is not installed.", hint="pip install 'llamafarm_ray[benchmarks]'"
        )


def load_tasks(names: Sequence[str], data: Path | None) -> dict[str, object]:
    """Return lm-eval's tasks and groups by name; a tag gives each of its tasks.

    Args:
        names: tasks, groups or tags.
        data: folder with their data; None takes it from the hub.

    Raises:
        UnsupportedError: lm-eval is not installed.
        InputError: there is no such task, or its data can't be read.
    """
    check_installed()
    manager = task_manager()
    for name in names:
        if name not in manager.task_index:
            raise InputError(f"lm-eval has no task {name!r}.", hint=did_you_mean(name, manager.all_tasks))
    return {name: item for asked in names for name, item in _build(manager, asked, data, is_alone=len(names) == 1)}


def _build(manager: TaskManager, name: str, data: Path | None, *, is_alone: bool) -> Iterator[tuple[str, object]]:
    from lm_eval.tasks._factory import TaskFactory  # pinned: the public way has no overrides of groups

    overrides: dict[str, object] = {}
    if data is not None:
        # An override of a group reaches every task below it.
        overrides["custom_dataset"] = partial(
            _read_local, folder=data, is_one=is_alone and name in manager.all_subtasks
        )
    try:
        index = dict(manager.task_index)
        built = TaskFactory().build(index[name], overrides=overrides, registry=index)
    except InputError:
        raise
    except Exception as error:  # an untyped library reads files and asks the hub
        hint = "Give its data with --data." if data is None else "Compare the files with the hub's data set."
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"The data of {name} can't be loaded: {said}.", hint=hint) from error
    for item in built if isinstance(built, list) else [built]:
        yield _name(item), item


def leaves(loaded: Mapping[str, Any]) -> dict[str, object]:
    """Return the tasks that are asked, those of groups included, by name."""
    found: dict[str, Any] = {}
    for item in loaded.values():
        tasks = item.get_all_tasks() if hasattr(item, "get_all_tasks") else [item]
        found |= {task.task_name: task for task in tasks}
    return found


def local_dataset(folder: Path, path: str, name: str | None, task: str, *, is_one: bool) -> object:
    """Return a task's data from local files, one a split: ``test.jsonl``, or ``test-00000-of-00001.parquet``.

    They are looked for in the folders ``<task>``, ``<name>``, ``<path>/<name>`` and ``<path>`` (its last part), and in
    ``folder`` itself if only one task is asked: several would be asked the same questions.

    Args:
        folder: given by the user.
        path: the data set's name on the hub, ``cais/mmlu``.
        name: its configuration, ``anatomy``.
        is_one: True if no other task is asked.

    Raises:
        InputError: there are no such files.
    """
    import datasets  # it takes seconds to import

    last = path.rpartition("/")[2]
    places = [task, *([name, f"{last}/{name}"] if name else []), *([last] if is_one or not name else [])]
    tried = [folder / place for place in dict.fromkeys(places)] + ([folder] if is_one else [])
    for place in tried:
        files = _split_files(place)
        if files:
            kind = DATA_FILES[Path(next(iter(files.values()))[0]).suffix]
            return datasets.load_dataset(kind, data_files=files, cache_dir=None)
    where = tried[-1] if is_one else tried[1] if name else tried[0]
    raise InputError(
        f"There is no data of {task} in {folder}.", hint=f"Put a file for each split (test.jsonl, ...) into {where}."
    )


@functools.cache
def task_manager() -> TaskManager:
    """Return lm-eval's index of tasks, which takes seconds to make."""
    from lm_eval.tasks import TaskManager  # an extra

    return TaskManager()


def _read_local(*, folder: Path, is_one: bool, config_source: str = "", **_: object) -> Any:
    from lm_eval.tasks._yaml_loader import load_yaml  # as above

    config = load_yaml(Path(config_source), resolve_func=False)
    return local_dataset(
        folder,
        str(config.get("dataset_path") or ""),
        config.get("dataset_name"),
        str(config.get("task")),
        is_one=is_one,
    )


def _split_files(place: Path) -> dict[str, list[str]]:
    """Return files by split; all of one format."""
    found: dict[str, list[str]] = {}
    suffixes = set()
    for path in sorted(place.glob("*")) if place.is_dir() else []:
        if path.suffix in DATA_FILES and path.is_file():
            suffixes.add(DATA_FILES[path.suffix])
            found.setdefault(path.stem.partition("-")[0], []).append(str(path))
    if len(suffixes) > 1:
        raise InputError(
            f"{place} has files of several formats: {', '.join(sorted(suffixes))}.", hint="Keep one of them."
        )
    return found


def _name(item: Any) -> str:
    return str(item.name if hasattr(item, "get_all_tasks") else item.task_name)
