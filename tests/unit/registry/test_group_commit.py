"""Callers that come while a commit is written share the next one; one's failure is not the others'."""

import datetime as dt
import threading

import pytest
from model_files import note_digest, store_note

from llamafarm_ray.errors import ConflictError, InputError, StorageError
from llamafarm_ray.registry import CommitLog, RegistryService, service
from llamafarm_ray.registry.commands import MoveAlias, RecordMetrics, Register, RegisterDataset, Rollback
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef, Version

X = note_digest("x")
Event = threading.Event


@pytest.fixture
def home(request, tmp_path):
    """An empty home in a folder; in a bucket for the tests where the store makes the difference."""
    is_remote = getattr(request, "param", "local") == "s3"
    return Location(request.getfixturevalue("bucket") + "/home" if is_remote else tmp_path / "home")


both_stores = pytest.mark.parametrize("home", ["local", pytest.param("s3", marks=pytest.mark.s3)], indirect=True)


@pytest.fixture
def registry(home):
    opened = RegistryService(home, principal="ann")
    store_note(opened.content, "x")
    return opened


class Door:
    """Holds the first write to the log back until it is opened; may fail it then."""

    def __init__(self, registry, monkeypatch, error=None):
        self.reached, self._open = threading.Event(), threading.Event()
        self._create, self._error, self.writes = registry.home.create, error, 0
        monkeypatch.setattr(registry.home, "create", self._held)

    def _held(self, name, data):
        self.writes += 1
        if self.writes == 1:
            self.reached.set()
            assert self._open.wait(30)
            if self._error is not None:
                raise self._error
        self._create(name, data)

    def open(self):
        self._open.set()


class Caller(threading.Thread):
    """Submits one command and keeps what came of it."""

    def __init__(self, registry, command):
        super().__init__(daemon=True)
        self._registry, self._command = registry, command
        self.outcome = self.error = None
        self.start()

    def run(self):
        try:
            self.outcome = self._registry.submit(self._command)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def ended(self):
        self.join(30)
        assert not self.is_alive()
        return self


def next_version():
    return Register("bot", ModelKind.CUSTOM, X, 1)


def behind(registry, door, first, commands):
    """The callers of commands that arrive while ``first`` is being written."""
    leader = Caller(registry, first)
    assert door.reached.wait(30)
    callers = [Caller(registry, command) for command in commands]
    while len(registry._line._waiting) < len(commands):
        pass
    door.open()
    return leader.ended(), [caller.ended() for caller in callers]


@both_stores
def test_who_waits_is_committed_together(registry, monkeypatch):
    door = Door(registry, monkeypatch)
    leader, callers = behind(registry, door, next_version(), [next_version() for _ in range(20)])
    assert leader.outcome.sequence == 1
    assert {caller.outcome.sequence for caller in callers} == {2}
    numbers = {caller.outcome.events[0].version for caller in [leader, *callers]}
    assert numbers == {f"1.{minor}.0" for minor in range(21)}
    assert RegistryService(registry.home).state == registry.state


def test_what_one_does_the_next_in_the_same_commit_can_use(registry, monkeypatch):
    door = Door(registry, monkeypatch)
    one = ModelRef("new", version=Version(1, 0, 0))
    commands = [Register("new", ModelKind.CUSTOM, X, 1, "1.0.0"), MoveAlias(one, "production")]
    leader = Caller(registry, next_version())
    assert door.reached.wait(30)
    callers = []
    for command in commands:  # in this order
        callers.append(Caller(registry, command))
        while len(registry._line._waiting) < len(callers):
            pass
    door.open()
    leader.ended()
    assert [caller.ended().outcome.sequence for caller in callers] == [2, 2]
    assert registry.resolve("new@production").ref == "new:1.0.0"


def test_a_refused_command_fails_alone(registry, monkeypatch):
    registry.submit(Register("bot", ModelKind.CUSTOM, X, 1, "1.0.0"))
    door = Door(registry, monkeypatch)
    taken = Register("bot", ModelKind.CUSTOM, X, 1, "1.0.0")
    endless = RecordMetrics(ModelRef("bot"), {"loss": float("nan")})
    _, callers = behind(registry, door, next_version(), [next_version(), taken, endless, next_version()])
    assert [type(caller.error) for caller in callers] == [type(None), ConflictError, InputError, type(None)]
    assert set(registry.refresh().models["bot"].versions) == {"1.0.0", "1.1.0", "1.2.0", "1.3.0"}


def test_a_failed_write_fails_its_callers_and_the_next_goes_on(registry, monkeypatch):
    door = Door(registry, monkeypatch, error=StorageError("disk full"))
    leader, callers = behind(registry, door, next_version(), [next_version(), next_version()])
    assert isinstance(leader.error, StorageError)
    assert [caller.error for caller in callers] == [None, None]
    assert set(registry.refresh().models["bot"].versions) == {"1.0.0", "1.1.0"}


def test_an_interrupted_leader_leaves_nobody_waiting(registry, monkeypatch):
    door = Door(registry, monkeypatch, error=KeyboardInterrupt())
    leader, callers = behind(registry, door, next_version(), [next_version()])
    assert isinstance(leader.error, KeyboardInterrupt)
    assert callers[0].outcome.sequence == 1


def test_an_interrupted_leader_tells_those_in_its_own_commit(registry, monkeypatch):
    door = Door(registry, monkeypatch)
    failing = iter([False, True])
    create = registry.home.create

    def interrupted(name, data):
        if next(failing, False):
            raise KeyboardInterrupt
        create(name, data)

    monkeypatch.setattr(registry.home, "create", interrupted)
    leader, callers = behind(registry, door, next_version(), [next_version(), next_version()])
    assert leader.error is None
    assert {type(caller.error) for caller in callers} == {KeyboardInterrupt, StorageError}  # whoever was first
    assert registry.submit(next_version()).sequence == 2


@both_stores
def test_a_write_whose_answer_was_lost_is_recognized_as_ones_own(registry, monkeypatch):
    """An object store's client tries again, and finds the name taken: by itself."""
    create = registry.home.create

    def answer_lost(name, data):
        create(name, data)
        raise FileExistsError

    monkeypatch.setattr(registry.home, "create", answer_lost)
    assert registry.submit(next_version()).sequence == 1
    assert registry.submit(next_version()).sequence == 2
    assert set(registry.state.models["bot"].versions) == {"1.0.0", "1.1.0"}


@both_stores
def test_a_call_repeated_after_a_lost_answer_is_done_once(registry, monkeypatch):
    create = registry.home.create

    def answer_lost(name, data):
        create(name, data)
        raise StorageError("connection reset")

    monkeypatch.setattr(registry.home, "create", answer_lost)
    with pytest.raises(StorageError):
        registry.submit(next_version(), idempotency_key="k")
    monkeypatch.undo()
    assert registry.submit(next_version(), idempotency_key="k").sequence == 1
    assert set(registry.state.models["bot"].versions) == {"1.0.0"}


@both_stores
def test_two_services_on_one_home_both_land(registry, home):
    other = RegistryService(home, principal="bob")
    threads = [Caller(service, next_version()) for service in (registry, other) for _ in range(10)]
    assert [thread.ended().error for thread in threads] == [None] * 20
    assert registry.refresh() == other.refresh()
    assert set(registry.state.models["bot"].versions) == {f"1.{minor}.0" for minor in range(20)}


def test_clocks_that_differ_by_minutes_do_not_turn_history_round(registry, home):
    registry.submit(next_version())
    behind = RegistryService(home, clock=lambda: dt.datetime.now(dt.UTC) - dt.timedelta(minutes=9))
    behind.submit(next_version())
    times = [commit.time for commit in registry.commits()]
    assert times == sorted(times)


def test_a_caller_who_goes_away_while_waiting_leaves_the_turn_to_the_next(registry, monkeypatch):
    """Ctrl-C reaches a caller that waits, or one whose turn it is: neither may block the others."""
    door = Door(registry, monkeypatch)
    leader = Caller(registry, next_version())
    assert door.reached.wait(30)
    gone = Event()

    class Impatient(Event):
        def wait(self, timeout=None):
            assert super().wait(timeout or 30)  # its turn has come
            gone.set()
            raise KeyboardInterrupt

    waiting = service.Waiting
    monkeypatch.setattr(service, "Waiting", lambda *args: impatient(waiting(*args), Impatient()))
    quitter = Caller(registry, next_version())
    while len(registry._line._waiting) < 1:
        pass
    monkeypatch.setattr(service, "Waiting", waiting)
    patient = Caller(registry, next_version())
    while len(registry._line._waiting) < 2:
        pass
    door.open()
    assert isinstance(quitter.ended().error, KeyboardInterrupt)
    assert gone.is_set()
    assert leader.ended().outcome.sequence == 1
    assert patient.ended().outcome.sequence == 2
    assert registry.submit(next_version()).sequence == 3


def impatient(waiting, event):
    waiting.called = event
    return waiting


def test_a_writer_that_finds_its_own_commit_has_not_lost_a_race(registry, monkeypatch):
    """An object store's client that lost the answer asks again, and is told that the name is taken."""
    create, asked = registry.home.create, []

    def twice(name, data):
        asked.append(name)
        create(name, data)
        raise FileExistsError(name)

    monkeypatch.setattr(registry.home, "create", twice)
    assert registry.submit(next_version()).sequence == 1
    assert asked == ["log/00000000000000000001.json"]
    assert RegistryService(registry.home).state == registry.state
    change = next(iter(registry.commits())).changes[0].model_copy(update={"idempotency_key": "other"})
    assert CommitLog(registry.home).append(registry.head, [change])[1].sequence == 2


def test_one_key_twice_in_one_commit_is_done_once(registry, monkeypatch):
    door = Door(registry, monkeypatch)
    leader = Caller(registry, next_version())
    assert door.reached.wait(30)
    submit = registry.submit
    monkeypatch.setattr(registry, "submit", lambda command: submit(command, idempotency_key="k"))
    callers = [Caller(registry, next_version()) for _ in range(3)]
    while len(registry._line._waiting) < 3:
        pass
    door.open()
    leader.ended()
    outcomes = [caller.ended().outcome for caller in callers]
    assert outcomes == [outcomes[0]] * 3
    assert set(registry.refresh().models["bot"].versions) == {"1.0.0", "1.1.0"}


def test_a_key_that_something_else_was_done_with_is_a_conflict(registry, home):
    registry.submit(next_version(), idempotency_key="k")
    one = ModelRef("bot", version=Version(1, 0, 0))
    with pytest.raises(ConflictError, match="'k' was used for something else, in commit 1"):
        registry.submit(MoveAlias(one, "production"), idempotency_key="k")
    with pytest.raises(ConflictError, match="used for something else"):
        RegistryService(home, principal="bob").submit(next_version(), idempotency_key="k")


@pytest.mark.s3
def test_looking_for_news_costs_few_requests(bucket, monkeypatch):
    home = Location(f"{bucket}/home")
    registry = RegistryService(home)
    store_note(registry.content, "x")
    asked = []
    read_many = home.read_many
    monkeypatch.setattr(home, "read_many", lambda names: asked.extend(names) or read_many(names))
    for _ in range(15):
        RegistryService(Location(home.uri)).submit(next_version())
        asked.clear()
        registry.refresh()
        assert len(asked) <= 4
    asked.clear()
    RegistryService(home)
    assert len(asked) <= 31


class Faulty(MoveAlias):
    """A command with a fault of ours in it."""

    def decide(self, state, context):
        del state, context
        raise AttributeError("a fault")


@pytest.mark.parametrize(
    "bad",
    [
        Faulty(ModelRef("bot"), "production"),
        Register("bot", ModelKind.CUSTOM, X, 1, "01.2.3"),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"description": "\udcff"}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"tags": ["two\nlines"]}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"tags": [""]}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"metrics": {"x": 10**400}}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"metrics": {"x": float("inf")}}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"metrics": {"x": object()}}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"metrics": {str(n): n for n in range(20_000)}}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"description": "x" * 100_000}),
        Register("bot", ModelKind.CUSTOM, X, 1, details={"no such field": 1}),
        Rollback("bot", "production", "../x"),
        RegisterDataset("nonsense"),
    ],
)
def test_whatever_is_wrong_with_one_command_the_others_in_its_commit_go_on(registry, monkeypatch, bad):
    door = Door(registry, monkeypatch)
    _, callers = behind(registry, door, next_version(), [next_version(), bad, next_version()])
    assert [caller.error is None for caller in callers] == [True, False, True]
    assert RegistryService(registry.home).state == registry.refresh()
    assert registry.state.sequence == 2


@pytest.mark.parametrize("reason", ["\udcff", "x" * 100_000])
def test_a_reason_that_cannot_be_kept_is_a_clear_error(registry, reason):
    with pytest.raises(InputError, match=r"reason is unusable|no Unicode"):
        registry.submit(next_version(), reason=reason)
    assert registry.refresh().sequence == 0


def test_a_key_kept_for_what_changed_nothing_changes_nothing_later(registry):
    one = ModelRef("bot", version=Version(1, 0, 0))
    registry.submit(next_version())
    registry.submit(next_version())
    registry.submit(MoveAlias(one, "production"))
    registry.submit(MoveAlias(one, "production"), idempotency_key="again")
    registry.promote("bot:1.1.0", "production")
    registry.submit(MoveAlias(one, "production"), idempotency_key="again")
    assert registry.resolve("bot").ref == "bot:1.1.0"


def test_a_listener_that_fails_or_reads_on_changes_nothing(registry, home):
    other = RegistryService(home)
    seen = []
    registry.on_commit(lambda: seen.append(registry.refresh().sequence))
    registry.on_commit(lambda: 1 / 0)
    for _ in range(3):
        other.submit(next_version())
    registry.refresh()
    assert registry.submit(next_version()).sequence == 4
    assert registry.state == RegistryService(home).state
    assert seen[-1] == 4
