"""The log takes no commit that would break it: by a wrong clock, on a head that is gone, or in an unfit store."""

import datetime as dt
import shutil
from pathlib import Path

import pytest

from llamafarm_ray.errors import AccessDeniedError, IntegrityError, StorageError
from llamafarm_ray.registry import Change, CommitLog, RegistryService, RegistryState, preconditions
from llamafarm_ray.registry.events import VersionTagged
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.preconditions import Preconditions
from llamafarm_ray.registry.updates import Update
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.probes import check_exclusive, store_time

MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)


class Clock:
    """A machine's clock, which may be set."""

    def __init__(self):
        self.ahead = dt.timedelta()

    def __call__(self):
        return dt.datetime.now(dt.UTC) + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def bot(versions):
    versions("bot", "1.0.0")


def tag(registry, text):
    return registry.tag("bot:1.0.0", add=(text,))


@pytest.mark.usefixtures("bot")
@pytest.mark.parametrize("ahead", [400 * DAY, -400 * DAY, 11 * MINUTE, -11 * MINUTE])
def test_a_writer_whose_clock_is_not_the_store_s_commits_nothing_until_it_is_set(registry, clock, ahead):
    clock.ahead = ahead
    writer = RegistryService(registry.home, clock=clock)
    with pytest.raises(StorageError, match=r"this machine's clock says .* UTC, and that of .*home"):
        tag(writer, "wrong")
    assert writer.resolve("bot").tags == ()
    tag(registry, "right")
    clock.ahead = 9 * MINUTE
    tag(writer, "set")
    assert registry.resolve("bot").tags == ("right", "set")
    assert verify(registry.home).problems == ()


@pytest.mark.usefixtures("bot")
def test_a_clock_that_is_set_wrongly_while_the_process_runs_is_noticed(registry, clock):
    writer = RegistryService(registry.home, clock=clock)
    tag(writer, "before")
    clock.ahead = 400 * DAY
    with pytest.raises(StorageError, match="clock"):
        tag(writer, "wrong")
    clock.ahead = dt.timedelta()
    tag(writer, "after")
    assert verify(registry.home).problems == ()


@pytest.mark.usefixtures("bot")
def test_a_refusal_by_a_wrong_clock_stays_a_refusal_and_is_not_recorded_under_a_wrong_date(registry, clock):
    token = registry.add_principal("root", {"*": Role.ADMIN})
    clock.ahead = 400 * DAY
    before = registry.refresh().sequence
    with pytest.raises(AccessDeniedError):
        RegistryService(registry.home, token="lfr_wrong", clock=clock).resolve("bot")  # noqa: S106
    assert RegistryService(registry.home, token=token).state.sequence == before


def test_the_store_is_asked_once_and_again_only_before_a_refusal(tmp_path, clock, monkeypatch):
    asked = []
    monkeypatch.setattr(preconditions, "store_time", lambda home: asked.append(home) or store_time(home))
    conditions = Preconditions(Location(tmp_path), clock)
    for _ in range(3):
        conditions.check()
    assert len(asked) == 1
    clock.ahead = DAY
    with pytest.raises(StorageError):
        conditions.check()
    assert len(asked) == 2


def test_a_machine_that_slept_asks_the_store_and_goes_on(tmp_path, clock, monkeypatch):
    conditions = Preconditions(Location(tmp_path), clock)
    conditions.check()
    monkeypatch.setattr(preconditions, "store_time", lambda _: clock())
    clock.ahead = DAY
    conditions.check()


def test_a_store_that_tells_no_time_is_written_to(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(preconditions, "store_time", lambda _: None)
    clock.ahead = DAY
    Preconditions(Location(tmp_path), clock).check()


def test_the_store_s_clock_counts_and_not_this_machine_s(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(preconditions, "store_time", lambda _: clock() + DAY)
    with pytest.raises(StorageError, match="clock"):
        Preconditions(Location(tmp_path), clock).check()


@pytest.fixture
def misdated(registry, bot):
    """A log in which an earlier release's writer, a year ahead, committed once."""
    event = VersionTagged(model="bot", version="1.0.0", tags=("ahead",))
    now = dt.datetime.now(dt.UTC)
    change = Change(time=now + 365 * DAY, principal="ann", idempotency_key="ahead", events=(event,))
    CommitLog(registry.home).append(registry.head, [change])
    return now


def test_what_follows_a_commit_that_is_dated_ahead_is_dated_right(registry, misdated):
    before = dt.datetime.now(dt.UTC)
    for text in ("one", "two"):
        tag(registry, text)
    times = [commit.time for commit in registry.commits()]
    assert before <= times[-2] <= times[-1] <= dt.datetime.now(dt.UTC)
    problems = verify(registry.home).problems
    assert [problem.partition(" is dated")[0] for problem in problems] == ["The commit 2", "The commit 3"]


def test_the_past_is_right_around_a_commit_that_is_dated_ahead(registry, misdated):
    tag(registry, "right")
    right = registry.state.time
    tag(registry, "later")
    for opened in (registry, RegistryService(registry.home, commits_a_snapshot=1)):
        assert opened.resolve("bot:1.0.0", at=misdated).tags == ()
        assert opened.resolve("bot:1.0.0", at=right).tags == ("ahead", "right")
        assert opened.resolve("bot:1.0.0", at=dt.datetime.now(dt.UTC)).tags == ("ahead", "right", "later")


def test_tokens_end_when_they_should_though_a_commit_is_dated_ahead(registry, misdated):
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    token = root.add_principal("dan", {"*": Role.VIEWER}, expires=dt.datetime.now(dt.UTC) + DAY)
    assert RegistryService(registry.home, token=token).resolve("bot").ref == "bot:1.0.0"


@pytest.fixture
def restored(registry, bot, tmp_path):
    """Five commits, a writer that knows them all, and an older log of three restored under it."""
    for text in ("b", "c"):
        tag(registry, text)
    shutil.copytree(tmp_path / "home" / "log", tmp_path / "older")
    for text in ("d", "e"):
        tag(registry, text)
    restore(tmp_path, "older")
    return tmp_path


def restore(folder, name):
    log = folder / "home" / "log"
    log.rename(folder / "newer")
    shutil.copytree(folder / name, log)


def commits(folder):
    return sorted(path.name for path in (folder / "home" / "log").iterdir())


def test_a_writer_whose_head_is_gone_commits_nothing(registry, restored):
    with pytest.raises(IntegrityError, match=r"0{19}5\.json, on which this process builds, is gone") as refused:
        tag(registry, "f")
    assert "restart this process" in refused.value.hint
    assert len(commits(restored)) == 3
    again = RegistryService(registry.home)
    tag(again, "goes on")
    assert again.resolve("bot").tags == ("b", "c", "goes on")
    assert verify(registry.home).problems == ()


def test_a_writer_whose_head_is_another_by_now_commits_nothing(registry, restored):
    other = RegistryService(registry.home)
    for text in ("x", "y"):
        tag(other, text)
    with pytest.raises(IntegrityError, match="is another one by now"):
        tag(registry, "f")
    assert len(commits(restored)) == 5
    assert verify(registry.home).problems == ()


def test_a_writer_goes_on_once_what_was_missing_is_put_back(registry, restored):
    with pytest.raises(IntegrityError):
        tag(registry, "f")
    shutil.copytree(restored / "newer", restored / "home" / "log", dirs_exist_ok=True)
    tag(registry, "f")
    assert registry.resolve("bot").tags == ("b", "c", "d", "e", "f")
    assert verify(registry.home).problems == ()


def watch(service, state):
    """Return the state of a watcher after it asked the registry actor's service."""
    service.refresh()
    return Update.since(service, state.sequence, state.last_key).after(state)


def test_watchers_of_a_log_that_was_restored_take_the_restored_one(registry, restored):
    known = registry.state
    actor = RegistryService(registry.home)
    assert watch(actor, known) == actor.state
    for text in ("x", "y", "z"):
        tag(actor, text)
    assert watch(RegistryService(registry.home), known).model("bot").versions["1.0.0"].tags == ("b", "c", "x", "y", "z")


def test_watchers_of_one_log_get_what_they_miss(registry, bot):
    known = registry.state
    assert Update.since(registry, known.sequence, known.last_key).is_empty
    tag(registry, "b")
    update = Update.since(registry, known.sequence, known.last_key)
    assert [commit.sequence for commit in update.commits] == [2]
    assert update.after(known) == registry.state
    assert watch(RegistryService(registry.home, commits_a_snapshot=1), RegistryState()) == registry.state


class Forgetful(Location):
    """A store that ignores the condition of a write."""

    def create(self, name, data):
        self.write(name, data)


@pytest.mark.parametrize("is_remote", [False, pytest.param(True, marks=pytest.mark.s3)])
def test_a_store_that_ignores_conditional_writes_is_refused_before_anything_is_committed(request, is_remote):
    uri = request.getfixturevalue("bucket") if is_remote else "memory://forgetful"
    registry = RegistryService(Forgetful(f"{uri}/home"))
    for _ in range(2):
        with pytest.raises(StorageError, match=r"ignores conditional writes \(If-None-Match: \*\)") as refused:
            registry.add_principal("root", {"*": Role.ADMIN})
        assert "AWS S3" in refused.value.hint
    assert registry.refresh().sequence == 0
    assert registry.home.names("log") == []


@pytest.mark.s3
def test_a_store_that_honours_them_tells_its_time_with_the_same_request(bucket, monkeypatch):
    home = Location(f"{bucket}/home")
    assert check_exclusive(home) is not None
    requests = []
    create = home.create
    monkeypatch.setattr(home, "create", lambda name, data: requests.append(name) or create(name, data))
    told = check_exclusive(home)
    assert len(requests) == 1
    for time in (told, store_time(home)):
        assert abs(dt.datetime.now(dt.UTC) - time) < MINUTE
    assert [file.name for file in home.walk()] == ["probe/exclusive-create"]


@pytest.mark.s3
def test_a_wrong_clock_is_refused_by_a_bucket_too(bucket, clock):
    clock.ahead = 400 * DAY
    registry = RegistryService(Location(f"{bucket}/home"), clock=clock)
    with pytest.raises(StorageError, match="this machine's clock"):
        registry.add_principal("root", {"*": Role.ADMIN})
    assert registry.refresh().sequence == 0


def test_the_probe_of_a_folder_leaves_nothing_behind(tmp_path):
    home = Location(tmp_path / "home")
    assert check_exclusive(home) is None
    assert abs(dt.datetime.now(dt.UTC) - store_time(home)) < MINUTE
    assert list(Path(home.root).iterdir()) == []
