"""Documents in folders of this machine, without following what leads elsewhere."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from llamafarm_ray.data.readers.base import oversized_message
from llamafarm_ray.data.records import is_record_file, named_beside, stem_of, validation_path
from llamafarm_ray.data.sources.found import SkippedDocument, SourceFile, Sources, file_type, plain_path
from llamafarm_ray.data.sources.wanted import Wanted
from llamafarm_ray.errors import InputError

__all__ = ["find_local"]

_DATASET_FILE, _REPORT_FILE = "dataset.json", "report.json"
_IS_DATASET = "it is a dataset that was built, no document."
_SAVED_BY_DATASETS = {"state.json", "dataset_info.json"}
"""Files that `datasets.save_to_disk` writes beside the Arrow files of a split, which hold the rows."""
_DESCRIPTIONS = {*_SAVED_BY_DATASETS, "dataset_dict.json"}
_MAGIC = re.compile(r"[*?\[]")


def find_local(source: str, exclude: Path | None, wanted: Wanted) -> Sources:
    """Find the wanted files in a folder, or those that match a pattern, or take a single one.

    Args:
        source: path or pattern; a relative one starts at the current directory.
        exclude: a folder not to look into.
        wanted: files to look for.

    Raises:
        InputError: it is missing or can't be listed.
    """
    path = Path(source).expanduser()
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: a null byte
        if _MAGIC.search(source):
            return _matching(path, source, wanted)
        raise InputError(
            f"The source {source!r} does not exist.", hint="Give a folder of documents, a document, or a URI."
        ) from error
    found = Sources(name=root.name)
    if root.is_dir():
        for name in _walk(root, source, exclude.resolve() if exclude else None, found, wanted):
            _add(found, name, root, wanted)
    elif root.is_file():
        found.name = ""
        _add(found, root, root.parent, wanted)
    else:
        raise InputError(f"The source {source!r} is neither a folder nor a file.")
    return found


def _matching(pattern: Path, source: str, wanted: Wanted) -> Sources:
    """Find the files that match a pattern; their paths start at its first folder without a wildcard."""
    parts = pattern.parts
    fixed = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    root = Path(*parts[:fixed]).resolve()
    found = Sources(name="")
    for match in sorted(glob.glob(str(Path(*parts[fixed:])), root_dir=root, recursive=True)):  # noqa: PTH207  root_dir
        path = root / match
        if not path.is_dir():
            _add(found, path, root, wanted)
    if not found.files and not found.skipped and not found.ignored:
        raise InputError(f"No file matches the source {source!r}.", hint="** stands for folders at any depth.")
    return found


def _walk(root: Path, source: str, exclude: Path | None, found: Sources, wanted: Wanted) -> Iterator[Path]:
    def skip(error: OSError) -> None:
        if error.filename == str(root):
            raise InputError(f"The source {source!r} can't be listed: {error.strerror}.") from error
        path = plain_path(Path(error.filename).relative_to(root))
        found.skipped.append(SkippedDocument(path, f"the folder can't be listed: {error.strerror}."))

    for folder, folders, names in os.walk(root, onerror=skip):
        shown = sorted(name for name in folders if not name.startswith(wanted.hidden))
        listed = [name for name in shown if Path(folder, name) != exclude]
        folders[:] = [name for name in listed if not Path(folder, name).is_symlink()]
        for name in listed:
            if name not in folders:
                link = plain_path(Path(folder, name).relative_to(root))
                found.skipped.append(SkippedDocument(link, "it is a link to a folder, which is not followed."))
        built = {} if wanted.built_datasets else _built(names)
        is_dataset = {_DATASET_FILE, _REPORT_FILE} <= set(names)
        if is_dataset and folder != str(root) and not wanted.built_datasets:
            found.skipped.append(SkippedDocument(plain_path(Path(folder).relative_to(root)), _IS_DATASET))
            folders.clear()
            continue
        described = _DESCRIPTIONS if set(names) >= _SAVED_BY_DATASETS else {"dataset_dict.json"}
        described |= {_DATASET_FILE} if is_dataset and wanted.built_datasets else set()
        for name in sorted(names):
            path = Path(folder, name)
            if name in described:
                found.ignored["(description of a datasets folder)"] += 1
            elif name in built and path.with_name(built[name]) != exclude:
                found.skipped.append(SkippedDocument(plain_path(path.relative_to(root)), _IS_DATASET))
            elif name not in built and not name.startswith(wanted.hidden):
                yield path


def _built(names: Collection[str]) -> dict[str, str]:
    """Return the files of datasets that were built as a file, each with the name of its dataset's main file."""
    ending = f".{_REPORT_FILE}"
    stems = {name.removesuffix(ending) for name in names if name.endswith(ending)}
    built: dict[str, str] = {}
    for name in sorted(names):
        main = Path(name)
        if is_record_file(main) and stem_of(main) in stems:
            reports = (named_beside(main, "report", suffix) for suffix in (".json", ".html"))
            built |= {path.name: name for path in (main, validation_path(main), *reports)}
    return built


def _add(found: Sources, path: Path, root: Path, wanted: Wanted) -> None:
    if not wanted.takes(path.name):
        found.ignored[file_type(path.name)] += 1
        return
    name = plain_path(path.relative_to(root))
    reason = _refusal(path, root, wanted)
    if reason:
        found.skipped.append(SkippedDocument(name, reason))
    else:
        found.files.append(SourceFile(name, os.fsencode(path)))


def _refusal(path: Path, root: Path, wanted: Wanted) -> str:
    """Return the reason why the file at ``path`` is not even opened; "" if it is."""
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            return "it is a link that leads out of the source."
        if not path.is_file():
            return "it is no regular file."
        num_bytes = path.stat().st_size
    except (OSError, RuntimeError):
        return "it is a link that leads nowhere."
    limit = wanted.max_bytes(path.name)
    return "" if limit is None or num_bytes <= limit else oversized_message(num_bytes, limit)
