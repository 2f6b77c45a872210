"""Find logs of conversations, and read them one after another."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from llamafarm_ray.data.conversations.conversation import Conversation
from llamafarm_ray.data.conversations.records import Unusable, record_turns
from llamafarm_ray.data.conversations.slack import Files, is_slack_export, slack_conversations
from llamafarm_ray.data.records import is_record_file, read_file
from llamafarm_ray.data.sources import SkippedDocument, Sources
from llamafarm_ray.data.sources.found import file_type, source_name
from llamafarm_ray.errors import InputError
from llamafarm_ray.types import Digest

__all__ = ["conversations_at", "find_logs"]

_MAX_DAY_BYTES = 256 * 1024 * 1024


def find_logs(source: str | Path | Sequence[str]) -> list[Path]:
    """Return the files and folders that are read as logs.

    Raises:
        InputError: a source does not exist.
    """
    paths = [Path(one).expanduser() for one in ((source,) if isinstance(source, str | Path) else source)]
    for path in paths:
        if not path.exists():
            raise InputError(
                f"The source {str(path)!r} does not exist.",
                hint="Give a Slack export (zip or folder), or files of tickets, chats or feedback (.jsonl, .json).",
            )
    return paths


def conversations_at(source: str | Path | Sequence[str], sources: Sources) -> Iterator[Conversation]:
    """Yield the conversations of all logs; what can't be read is noted in ``sources``.

    Args:
        source: Slack exports, files of records, or folders of them.
        sources: takes skipped files with their reasons, and files of other types.

    Raises:
        InputError: a source does not exist.
    """
    sources.name = source_name(source)
    paths = find_logs(source)
    names: Counter[str] = Counter()
    for path in paths:
        names[path.name] += 1
        name = path.name if names[path.name] == 1 else f"{path.name}-{names[path.name]}"
        try:
            yield from _of_path(path, name, sources, is_single=len(paths) == 1)
        except (InputError, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            sources.skipped.append(SkippedDocument(name, f"it can't be read ({error})."))


def _of_path(path: Path, name: str, sources: Sources, *, is_single: bool) -> Iterator[Conversation]:
    """Yield the conversations of a source; with several of them the names of logs begin with that of theirs."""
    if path.is_dir():
        files: Files = {
            file.relative_to(path).as_posix(): file.read_bytes for file in sorted(path.rglob("*")) if file.is_file()
        }
        if is_slack_export(files):
            yield from slack_conversations(files, name)
            return
        for inside in files:
            if not any(part.startswith(".") for part in Path(inside).parts):
                yield from _of_file(path / inside, inside if is_single else f"{name}/{inside}", sources)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {one: partial(_member, archive, one) for one in archive.namelist() if not one.endswith("/")}
            if not is_slack_export(members):
                raise InputError("it is no export of Slack", hint="Unpack it.")
            yield from slack_conversations(members, name)
    else:
        yield from _of_file(path, name, sources)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        content = file.read(_MAX_DAY_BYTES + 1)
    if len(content) > _MAX_DAY_BYTES:
        raise InputError(f"{name} unpacks to more than {_MAX_DAY_BYTES >> 20} MiB")
    return content


def _of_file(path: Path, name: str, sources: Sources) -> Iterator[Conversation]:
    if not is_record_file(path):
        sources.ignored[file_type(path.name)] += 1
        return
    try:
        with path.open("rb") as file:
            digest = Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        for place, record in read_file(path):
            try:
                yield Conversation(name, digest, record_turns(record))
            except Unusable as reason:
                yield Conversation(name, digest, dropped=str(reason), sample=f"{name}, {place}")
    except (InputError, OSError) as error:
        sources.skipped.append(SkippedDocument(name, str(error)))
