"""Read everything a registry holds, and report damaged, missing and forged content."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from llamafarm_ray.errors import IntegrityError, StorageError, UserError
from llamafarm_ray.registry.history.lawful import problem_of
from llamafarm_ray.registry.history.snapshots import Snapshots, dump_state
from llamafarm_ray.registry.log import GENESIS, Commit, CommitLog, Head
from llamafarm_ray.registry.preconditions import MAX_CLOCK_DIFFERENCE
from llamafarm_ray.registry.references import record_ref
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.storage import ContentStore, Location
from llamafarm_ray.types import Digest

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of a verification: counts, and mistakes found.

    Attributes:
        commits: number of good commits, from the first on.
        blobs: number of stored files that were hashed.
        head: the last good commit.
        problems: one line each, the first bad commit first; empty where all is well.
    """

    commits: int
    blobs: int
    bytes: int
    head: Head
    problems: tuple[str, ...]


def verify(
    home: Location,
    *,
    head: Head | None = None,
    blobs: bool = True,
    on_progress: Callable[[str, float], None] | None = None,
) -> Verification:
    """Check all commits and snapshots, and every stored file of datasets and of versions that still have content.

    Args:
        head: a head that was kept elsewhere: the log must contain it.
        blobs: True to read the stored files too.
        on_progress: called with the part that is being read, and the fraction of it that is done.

    Raises:
        StorageError: the home can't be read.
    """
    report = on_progress or (lambda _stage, _fraction: None)
    log = CommitLog(home)
    state, last, good, problems = _replay(log, Snapshots(home), head, report)
    num_blobs = num_bytes = 0
    if blobs:
        content = ContentStore(home, generation=lambda digest: state.generations.get(digest, 0))
        lacking: list[tuple[VersionRecord, str]] = []
        for record, size_bytes, problem in _contents(content, state):
            num_blobs, num_bytes = num_blobs + 1, num_bytes + size_bytes
            lacking += [(record, problem)] if problem else []
            report("files", min(0.99, num_blobs / (num_blobs + 1)))
        problems += _still_lacking(log, state, last, lacking)
        for size_bytes, problem in _of_datasets(content, state):
            num_blobs, num_bytes = num_blobs + 1, num_bytes + size_bytes
            problems += [problem] if problem else []
    return Verification(good.sequence, num_blobs, num_bytes, good, tuple(problems))


def _replay(
    log: CommitLog, snapshots: Snapshots, head: Head | None, report: Callable[[str, float], None]
) -> tuple[RegistryState, Head, Head, list[str]]:
    """Check every commit, and the snapshots on the way.

    Returns:
        the state after the last commit that could be read, that commit, the last one before any problem, the problems.
    """
    problems: list[str] = []
    state, last, good = RegistryState(), GENESIS, GENESIS
    newest_format = 1
    unread = set(snapshots.sequences())
    total = max(log.last_sequence(), 1)
    try:
        for commit, reached in log.read_after(GENESIS):
            problems += _unlawful(state, commit, newest_format)
            newest_format = max(newest_format, commit.format_version)
            state, last = state.after(commit), reached
            good = good if problems else last
            if commit.sequence in unread:
                unread.remove(commit.sequence)
                problems += _of_snapshot(snapshots, state, last)
            problems += _of_head(head, last)
            report("commits", commit.sequence / total)
        log.check_complete(last)
    except IntegrityError as error:
        problems.append(str(error))
    except (UserError, KeyError) as error:
        problems.append(f"The commit {last.sequence + 1} says what can't be: {error}")
    problems += [f"The snapshot {number} is of a commit that there isn't." for number in sorted(unread)]
    problems += _of_head(head, GENESIS)
    if head is not None and head.sequence > last.sequence:
        problems.append(
            f"The log ends at commit {last.sequence}, and commit {head.sequence} was there: a tail was cut off."
        )
    return state, last, good, problems


def _still_lacking(
    log: CommitLog, state: RegistryState, head: Head, lacking: list[tuple[VersionRecord, str]]
) -> list[str]:
    """Return the problems without content that a garbage collector deleted rightly in the meantime."""
    if lacking:
        with suppress(IntegrityError):  # that is reported already
            for commit, _ in log.read_after(head):
                state = state.after(commit)
    return [f"{record.ref}: {problem}" for record, problem in lacking if not state.resolve(record_ref(record)).purged]


def _unlawful(state: RegistryState, commit: Commit, newest_format: int) -> Iterator[str]:
    """Yield changes that no service would have committed: they were written by hand."""
    if commit.format_version < newest_format:  # releases that write the older one can't read the newer
        yield f"The commit {commit.sequence} has the format of an older release than one before it: it is forged."
    if commit.time < state.time:
        yield (
            f"The commit {commit.sequence} is dated before the one before it ({commit.time:%Y-%m-%d %H:%M} and "
            f"{state.time:%Y-%m-%d %H:%M} UTC): one of the two was written with a wrong clock, or by hand."
        )
    if commit.time > dt.datetime.now(dt.UTC) + MAX_CLOCK_DIFFERENCE:
        yield f"The commit {commit.sequence} is dated {commit.time:%Y-%m-%d %H:%M} UTC, which is in the future."
    rules = max(newest_format, commit.format_version)
    for change in commit.changes:
        if problem := problem_of(state, change, rules):
            yield f"The commit {commit.sequence} is forged: {problem}"
        state = state.after_change(change, commit.sequence)


def _of_snapshot(snapshots: Snapshots, state: RegistryState, head: Head) -> Iterator[str]:
    try:
        snapshot = snapshots.read(head.sequence)
    except FileNotFoundError:  # of an earlier release
        return
    except IntegrityError as error:
        yield str(error)
        return
    if snapshot.head != head or dump_state(snapshot.state) != dump_state(state):
        yield f"The snapshot {head.sequence} is not what the log says. Delete it; the log is enough."


def _of_head(expected: Head | None, reached: Head) -> Iterator[str]:
    if expected is not None and expected.sequence == reached.sequence and expected.digest != reached.digest:
        yield f"The commit {reached.sequence} is not the one that the head given names: history was rewritten."


def _contents(content: ContentStore, state: RegistryState) -> Iterator[tuple[VersionRecord, int, str]]:
    """Version, size and problem (or nothing) of everything that versions refer to, each once."""
    seen: set[Digest] = set()
    for record in sorted(state.versions(), key=lambda record: record.ref):
        if record.purged:
            continue
        try:
            files = content.manifest(Digest(record.registered.manifest)).files
        except IntegrityError as error:
            yield record, 0, str(error)
            continue
        for entry in files:
            if entry.digest not in seen:
                seen.add(entry.digest)
                problem = _check(content, entry.digest, entry.size_bytes)
                yield record, entry.size_bytes, f"{entry.path}: {problem}" if problem else ""
        for signed in record.signatures.values():
            problem = _check(content, Digest(signed.signature))
            yield record, 0, f"its signature: {problem}" if problem else ""


def _of_datasets(content: ContentStore, state: RegistryState) -> Iterator[tuple[int, str]]:
    """Yield the size and the problem (or nothing) of every stored file of datasets."""
    for registered in state.datasets.values():
        for dataset in registered:
            if dataset.manifest is None:
                continue
            named = f"dataset {dataset.name}@{dataset.digest[7:19]}"
            try:
                files = content.manifest(Digest(dataset.manifest)).files
            except IntegrityError as error:
                yield 0, f"{named}: {error}"
                continue
            for entry in files:
                problem = _check(content, entry.digest, entry.size_bytes)
                yield entry.size_bytes, f"{named}: {entry.path}: {problem}" if problem else ""


def _check(content: ContentStore, digest: Digest, size_bytes: int | None = None) -> str | None:
    try:
        return content.check(digest, size_bytes)
    except StorageError as error:  # one that can't be read does not keep the others from being looked at
        return str(error)
