"""Kill a process that writes to a registry at its n-th touch of the store, and check what it leaves.

The writer runs :func:`write`: registrations, alias moves, snapshots, garbage collection and pulls, each step with a key
of its own, each acknowledged in a synced file before the next one. Every call that changes the store counts twice,
before and after it, and the process sends itself SIGKILL at the wanted count. Writers are forked from a helper process
that has everything imported and no threads.
"""

import bisect
import dataclasses
import datetime as dt
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from model_files import safetensors_bytes

from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Approve, MoveAlias, RecordMetrics, Retire, Rollback, Tag
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.history.snapshots import dump_state
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.log import GENESIS, CommitLog
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.storage import Location, location
from llamafarm_ray.types import Digest, ModelKind, ModelRef

__all__ = ["NUM_STEPS", "Crash", "busy_bucket", "crash_at_points", "make_folders"]

NUM_STEPS = 17
"""How many steps a writer does."""

_PART_BYTES = 5 * 1024 * 1024
_BIG_BYTES = 2 * _PART_BYTES + 1
_fsync = os.fsync  # the one that is not counted


@pytest.fixture
def busy_bucket(bucket, monkeypatch):
    """The URI of an empty bucket that many requests reach at once."""
    # moto answers 500 where an object is deleted while it lists; botocore asks again, as it does by default.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    return bucket


@dataclasses.dataclass(frozen=True)
class Writing:
    """What a writer works with: the home's URI, its files, and the count at which it dies (0: it does not).

    ``in_turn``: each step waits for the snapshot that it began, so that every run counts the same in each step.
    """

    home: str
    cache: str
    folders: str
    acknowledged: str
    point: int = 0
    in_turn: bool = False


@dataclasses.dataclass(frozen=True)
class Crash:
    """How a writer ended: the steps it acknowledged, and whether the kill came before its last one."""

    steps: list[str]
    killed: bool


def make_folders(root, *, big=False):
    """The folders ``one``, ``two`` and ``three``; a big file in ``three`` is sent to an object store in parts."""
    for number, name in enumerate(("one", "two", "three")):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(number))
        (folder / "adapter_config.json").write_text("{}")
    if big:
        (root / "three" / "vocabulary.txt").write_bytes(b"word\n" * (_BIG_BYTES // 5))
    return root


def write(writing):
    """The writer: every step in order, done already or not."""
    count = _Count(writing.point)
    _count_calls(count, Location(writing.home).is_local)
    registry = RegistryService(Location(writing.home), principal="ann", cache=Path(writing.cache), commits_a_snapshot=4)
    with Path(writing.acknowledged).open("a", encoding="utf-8") as file:
        for key, step in _steps(Path(writing.folders)).items():
            done = step(registry, key)
            if writing.in_turn:
                _wait_for_snapshot()
            _acknowledge(file, {"step": key, **done, "points": count.total})
        _wait_for_snapshot()
        _acknowledge(file, {"points": count.total})


def _wait_for_snapshot():
    for thread in threading.enumerate():
        if thread.name == "registry-snapshot":
            thread.join()


def _steps(folders):
    """What the writer does; each step may be done again at any later time, and changes nothing then."""
    return {
        "register one": _registers(folders / "one"),
        "promote one": _submits(MoveAlias(ModelRef.parse("bot:1.0.0"), "production")),
        "register two": _registers(folders / "two"),
        "promote two": _submits(MoveAlias(ModelRef.parse("bot:1.1.0"), "production")),
        "pull": _pulls("bot@production"),
        "roll back": _submits(Rollback("bot", "production")),
        "retire two": _submits(Retire(ModelRef.parse("bot:1.1.0"))),
        "collect": _collects,
        "register two again": _registers(folders / "two"),
        "tag": _submits(Tag(ModelRef.parse("bot:1.2.0"), add=("good",))),
        "measure": _submits(RecordMetrics(ModelRef.parse("bot:1.2.0"), {"exact_match": 0.5})),
        "approve": _submits(Approve(ModelRef.parse("bot:1.2.0"), "production")),
        "register three": _registers(folders / "three"),
        "promote again": _submits(MoveAlias(ModelRef.parse("bot:1.2.0"), "production")),
        "retire one": _submits(Retire(ModelRef.parse("bot:1.0.0"))),
        "collect again": _collects,
        "pull three": _pulls("bot:1.3.0"),
    }


def _registers(folder):
    def step(registry, key):
        record = registry.register(folder, name="bot", kind=ModelKind.ADAPTER, idempotency_key=key)
        return {"ref": record.ref, "sequence": registry.state.commits_by_key[key]}

    return step


def _submits(command):
    return lambda registry, key: {"sequence": registry.submit(command, idempotency_key=key).sequence}


def _pulls(reference):
    def step(registry, _key):
        assert (registry.pull(reference) / "adapter_config.json").read_text() == "{}"
        return {}

    return step


def _collects(registry, _key):
    collect(registry, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
    return {}


def _acknowledge(file, what):
    file.write(json.dumps(what) + "\n")
    file.flush()
    _fsync(file.fileno())


class _Count:
    """Counts touches of the store and ends the process at the wanted one."""

    def __init__(self, last):
        self.total = 0
        self._last = last
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            self.total += 1
            if self.total == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()


def _count_calls(count, is_local):
    """Count before and after every call that changes the store or the cache, down to the system's own."""
    for name in ("create", "upload", "write", "remove"):
        _around(Location, name, count)
    for name in ("mkdir", "rename", "replace", "unlink"):
        _around(Path, name, count)
    for name in ("fsync", "link"):
        _around(os, name, count)
    if not is_local:
        location._PART_BYTES = _PART_BYTES
        _around_requests(count)


def _around(owner, name, count):
    original = getattr(owner, name)

    @functools.wraps(original)
    def counted(*args, **kwargs):
        count()
        result = original(*args, **kwargs)
        count()
        return result

    setattr(owner, name, counted)


def _around_requests(count):
    """The requests themselves: after one, the store did what it was asked and nobody heard of it."""
    from s3fs import S3FileSystem

    original = S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        changes = not method.startswith(("get_", "head_", "list_"))
        if changes:
            count()
        result = await original(self, method, *args, **kwargs)
        if changes:
            count()
        return result

    S3FileSystem._call_s3 = counted


class Helper:
    """A process that forks writers. Its environment, where the object store is, is that of its start."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, writing):
        """A writer's exit code, negative for a signal."""
        self._process.stdin.write(json.dumps(dataclasses.asdict(writing)) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _fork_writers():
    """The helper's loop: a writer for each line."""
    if "AWS_ENDPOINT_URL" in os.environ:
        import s3fs  # noqa: F401  (once, not in every writer)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            try:
                write(Writing(**json.loads(line)))
            except BaseException:  # noqa: BLE001  (the fork must end here, whatever happened)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201  (the answer)


class _Reader(threading.Thread):
    """Reads a home again and again while another process writes it."""

    def __init__(self, home):
        super().__init__(name="reader")
        self.heads = set()
        self.error = None
        self._home = home
        self._pause_s = 0.002 if home.is_local else 0.5  # the object store has one processor to answer with
        self._end = threading.Event()

    def run(self):
        try:
            follower = RegistryService(self._home)
            while not self._end.wait(self._pause_s):
                follower.refresh()
                self._look(follower)
                self._look(RegistryService(self._home))
        except Exception as error:  # noqa: BLE001  (raised in the test's own thread)
            self.error = error

    def end(self):
        self._end.set()
        self.join()
        if self.error is not None:
            raise self.error
        return self.heads

    def _look(self, registry):
        """What the state names as living is there."""
        self.heads.add(registry.head)
        for record in registry.state.versions():
            if record.retired is None:
                try:
                    listed = registry.content.manifest(Digest(record.registered.manifest))
                    missing = [entry.path for entry in listed.files if registry.content.check(entry.digest)]
                except IntegrityError as error:
                    missing = [str(error)]
                if missing:
                    now = registry.refresh().resolve(ModelRef.parse(record.ref))
                    assert now.retired is not None, (record.ref, missing)


def crash_at_points(number, store, tmp_path, *, big=False, steps=range(NUM_STEPS)):
    """Crash and recover at those of ``number`` points of the whole script that lie in some steps of it.

    Each crash gets a home of its own. The steps are given by their places in the script. Without a number each of
    them is cut off once, in its middle.
    """
    folders = make_folders(tmp_path / "folders", big=big)
    root, helper = Location(store), Helper()

    def writing(name, point=0):
        files = (tmp_path / f"cache-{name}", folders, tmp_path / f"acknowledged-{name}")
        return Writing(f"{store}/{name}", *map(str, files), point=point, in_turn=number is None)

    try:
        if root.is_local:
            assert helper.run(writing("first")) == 0  # it makes folders that later homes share, and so touches more
        points = [point for point, step in _kill_points(helper, writing("whole"), number) if step in steps]
        return [_crash_and_recover(helper, writing(str(point), point), root.child(str(point))) for point in points]
    finally:
        helper.close()


def _kill_points(helper, writing, number):
    """``number`` counts, spread evenly over all that a writer of these folders touches, each with its step."""
    assert helper.run(writing) == 0
    ends = [line["points"] for line in _read(writing.acknowledged)]
    assert len(ends) == NUM_STEPS + 1
    if number is None:
        return [((start + end + 1) // 2, step) for step, (start, end) in enumerate(itertools.pairwise([0, *ends[:-1]]))]
    assert ends[-1] >= number
    points = [1 + index * ends[-2] // number for index in range(number)]
    return [(point, bisect.bisect_left(ends, point)) for point in points]


def _crash_and_recover(helper, writing, home):
    """Let a writer die at its point, check what is there, let another one run to the end, and check again.

    ``home`` is the writer's home; all of a test's homes are children of one location, with one connection.
    """
    reader = _Reader(home)
    reader.start()
    try:
        code = helper.run(writing)
    finally:
        heads = reader.end()
    acknowledged = _read(writing.acknowledged)
    assert code in {0, -signal.SIGKILL}
    _check(RegistryService(home, principal="ann"), acknowledged, heads)
    again = dataclasses.replace(writing, point=0, acknowledged=f"{writing.acknowledged}.again")
    assert helper.run(again) == 0
    registry = RegistryService(home, principal="ann", cache=Path(writing.cache))
    _check(registry, [*acknowledged, *_read(again.acknowledged)], heads)
    _check_end(registry, Path(writing.folders))
    return Crash([line["step"] for line in acknowledged if "step" in line], killed=code != 0)


def _read(path):
    """The whole lines of what a writer acknowledged."""
    file = Path(path)
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _check(registry, acknowledged, heads):
    """Nothing acknowledged is missing or there twice, nothing is damaged, and what was read meanwhile was so."""
    commits = list(CommitLog(registry.home).read_after(GENESIS))
    keys = [change.idempotency_key for commit, _ in commits for change in commit.changes]
    assert len(keys) == len(set(keys))
    for line in acknowledged:
        if "sequence" in line:
            assert line["sequence"] <= len(commits), line
            commit, _ = commits[line["sequence"] - 1]
            assert line["step"] in {change.idempotency_key for change in commit.changes}, line
        if "ref" in line:
            assert registry.resolve(line["ref"]).ref == line["ref"]
    assert heads <= {GENESIS, *(head for _, head in commits)}
    replayed = functools.reduce(RegistryState.after, (commit for commit, _ in commits), RegistryState())
    assert dump_state(registry.state) == dump_state(replayed)
    assert verify(registry.home).problems == ()


def _check_end(registry, folders):
    """The script ran to its end, each step once; garbage and only garbage can be collected."""
    versions = registry.state.models["bot"].versions
    assert sorted(versions) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert {number for number, record in versions.items() if record.retired is not None} == {"1.0.0", "1.1.0"}
    assert versions["1.2.0"].tags == ("good",)
    assert registry.resolve("bot@production").ref == "bot:1.2.0"
    keys = {change.idempotency_key for commit in registry.commits() for change in commit.changes}
    committing = {key for key in _steps(folders) if not key.startswith(("pull", "collect"))}
    assert committing <= keys
    collect(registry, grace=dt.timedelta(), purge_retired_after=dt.timedelta(), dry_run=False)
    living = [record for record in versions.values() if record.retired is None]
    manifests = {Digest(record.registered.manifest) for record in living} | registry.content.leased()
    assert {blob.digest for blob in registry.content.stored() if blob.is_manifest} <= manifests
    assert verify(registry.home).problems == ()
    for name, reference in (("two", "bot:1.2.0"), ("three", "bot:1.3.0")):
        pulled = registry.pull(reference)
        for path in (folders / name).iterdir():
            assert (pulled / path.name).read_bytes() == path.read_bytes()


if __name__ == "__main__":
    _fork_writers()
