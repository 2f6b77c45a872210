"""Checkpoints: whole or absent, verified when read, kept by count and by the best, on a folder and on a bucket."""

import errno
import json
import logging
import re
import threading

import pytest
import torch
from s3 import bucket, s3_server  # noqa: F401  (fixtures)

from llamafarm_ray.errors import IntegrityError, StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.checkpoints import CheckpointStore, RunState
from llamafarm_ray.training.strategies import Place


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def location(request, tmp_path):
    return Location(tmp_path / "run" if request.param == "local" else request.getfixturevalue("bucket") + "/run")


@pytest.fixture
def local(tmp_path):
    return Location(tmp_path / "run")


class Worker:
    """The part of a strategy that checkpoints use: three parameters whose values say at which step they are."""

    def __init__(self, rank=0, num_workers=1, meeting=None):
        self.place = Place(rank, num_workers, torch.device("cpu"))
        self.value = 0.0
        self.taken = None
        self.exported = 0
        self._meeting = meeting

    def gather(self, value):
        return [value] if self._meeting is None else self._meeting.gather(self.place.rank, value)

    def export_state(self):
        for index, name in enumerate(("a", "b", "c")):
            self.gather(None)  # as ZeRO does: whoever leaves early lets the others wait
            self.exported += 1
            tensor = torch.full((2, index + 1), self.value)
            yield name, {"weight": tensor, "exp_avg": tensor * 2, "exp_avg_sq": tensor * 3}

    def import_state(self, state, num_updates):
        values = {float(state[name]["weight"].mean()) for name in "abc"}
        assert all(torch.equal(state[name]["exp_avg_sq"], state[name]["weight"] * 3) for name in "abc")
        (self.taken,) = values
        self.num_updates = num_updates

    def loss_scale(self):
        return None


class Meeting:
    """Where the threads of several workers exchange values."""

    def __init__(self, num_workers):
        self._barrier = threading.Barrier(num_workers, timeout=20)
        self._values = [None] * num_workers

    def gather(self, rank, value):
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values


def run_workers(num_workers, do):
    """Let each worker of a group ``do`` something with itself, and give what each returned or raised."""
    meeting, found = Meeting(num_workers), [None] * num_workers

    def run(rank):
        try:
            found[rank] = do(Worker(rank, num_workers, meeting))
        except Exception as error:  # noqa: BLE001  (looked at by the test)
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return found


def save(store, step, *, loss=None, worker=None):
    worker = worker or Worker()
    worker.value = float(step)
    state = RunState(step=step, num_updates=step, losses=[0.1 / (1 + index) for index in range(step)])
    if loss is not None:
        state.validation = [(step, loss)]
    return store.save(worker, state)


def restored(store):
    """The step that a new worker goes on from, checked to have that step's parameters and losses."""
    worker = Worker()
    state = store.restore(worker)
    assert worker.taken == (float(state.step) if state.step else None)
    assert state.losses == [0.1 / (1 + index) for index in range(state.step)]
    return state.step


def store_in(location, **options):
    return CheckpointStore(location, **{"fingerprint": "f", "keep": 9, **options})


def files(location):
    return sorted(file.name for file in location.walk("checkpoints"))


def steps(location):
    return [stored.step for stored in store_in(location).find()]


def test_a_run_goes_on_from_its_latest_checkpoint(location):
    store = store_in(location)
    assert restored(store) == 0
    save(store, 2)
    save(store, 4, loss=0.25)
    assert restored(store_in(Location(location.uri))) == 4
    assert [(stored.step, stored.validation_loss) for stored in store.find()] == [(4, 0.25), (2, None)]


def test_what_several_workers_wrote_one_can_read(location):
    stored = run_workers(2, lambda worker: save(store_in(location), 6, worker=worker))
    assert sorted(stored[0].files) == ["rank-0.safetensors", "rank-1.safetensors"]
    assert stored[0] == stored[1]
    assert restored(store_in(location)) == 6


def test_a_folder_without_a_manifest_does_not_count_and_is_cleaned_up(location):
    store = store_in(location)
    save(store, 2)
    location.write("checkpoints/step-00000004-dead/rank-0.safetensors", b"half")
    assert restored(store) == 2
    save(store, 6)
    assert not any("dead" in name for name in files(location))
    assert steps(location) == [6, 2]


def of_step(location, step, pattern):
    (found,) = [name for name in files(location) if re.search(rf"step-{step:08d}-\w+/{pattern}", name)]
    return found


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {"truncated": lambda data: data[: len(data) // 2], "flipped": flip, "empty": lambda _: b""}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["rank-0.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_left_out_with_a_warning(location, caplog, damage, file):
    store = store_in(location)
    save(store, 2)
    save(store, 4)
    name = of_step(location, 4, file)
    location.write(name, DAMAGES[damage](location.read(name)))
    with caplog.at_level(logging.WARNING):
        assert restored(store) == 2
    (said,) = (record for record in caplog.records if record.name == "llamafarm_ray.training.checkpoints")
    assert "step-00000004" in said.message
    assert file in said.message


def test_no_flipped_bit_of_a_manifest_goes_unseen(local):
    store = store_in(local)
    save(store, 3)
    name = of_step(local, 3, "checkpoint.json")
    data = local.read(name)
    for place in range(len(data)):
        for bit in (place % 8, 5):  # all of them, and the one that is a letter's case
            local.write(name, data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
            found = store.find()
            # White space and the case of a hexadecimal digit may change; what is read may not.
            assert not found or found[0].state["losses"] == json.loads(data)["state"]["losses"], (place, bit)
        if place > 120:
            break


def test_a_missing_file_leaves_a_checkpoint_out(location, caplog):
    store = store_in(location)
    save(store, 2)
    save(store, 4)
    location.remove(of_step(location, 4, "rank-0"))
    assert restored(store) == 2
    assert "a file is missing" in caplog.text
    location.remove(of_step(location, 2, "rank-0"))
    assert restored(store) == 0


def test_workers_agree_to_leave_out_what_one_of_them_can_t_read(local):
    save(store_in(local), 2)
    save(store_in(local), 4)

    class Torn(CheckpointStore):
        def _load(self, stored, states):
            return "torn" if stored.step == 4 else super()._load(stored, states)

    def restore(worker):
        kind = Torn if worker.place.rank == 1 else CheckpointStore
        return kind(local, fingerprint="f").restore(worker).step

    assert run_workers(2, restore) == [2, 2]


def test_checkpoints_of_another_run_are_not_its_own(location):
    save(store_in(location), 4)
    assert restored(store_in(location, fingerprint="g")) == 0
    assert store_in(location, fingerprint="g").find() == []


def test_the_latest_stay_and_the_best_besides(location):
    store = store_in(location, keep=2)
    for step, loss in ((1, 0.9), (2, 0.3), (3, None), (4, 0.5), (5, 0.3), (6, 0.8)):
        save(store, step, loss=loss)
    assert steps(location) == [6, 5, 2]
    assert store.by_loss(Worker())[0].step == 2, "the earlier of two that are equal"
    assert len(files(location)) == 6


def test_without_a_validation_the_latest_stay(location):
    store = store_in(location, keep=1)
    for step in (1, 2, 3):
        save(store, step)
    assert steps(location) == [3]
    assert store.by_loss(Worker()) == []


def test_what_is_removed_loses_its_manifest_first(local, monkeypatch):
    store = store_in(local, keep=1)
    save(store, 1)
    removed, remove = [], Location.remove
    monkeypatch.setattr(Location, "remove", lambda self, name: (removed.append(name), remove(self, name)))
    save(store, 2)
    assert [name.split("/")[-1] for name in removed] == ["checkpoint.json", "rank-0.safetensors"]
    store.clear()
    assert removed[2].endswith("checkpoint.json")
    assert files(local) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_that_is_not_finite_refuses_the_save_and_leaves_the_earlier_ones(location, value):
    store = store_in(location, keep=1)
    save(store, 2)
    worker = Worker()
    before = files(location)
    worker.value = value
    with pytest.raises(IntegrityError, match=r"weight of a is not finite|exp_avg of a is not finite"):
        store.save(worker, RunState(step=4))
    assert files(location) == before
    assert restored(store) == 2


def test_a_tensor_of_one_worker_that_is_not_finite_is_every_worker_s_error(local):
    """Each takes part to the end in the collectives that bring tensors together, so that nobody waits for it."""
    workers = []

    def save_nan(worker):
        workers.append(worker)
        worker.value = float("nan") if worker.place.rank == 0 else 1.0
        store_in(local).save(worker, RunState(step=4))

    found = run_workers(2, save_nan)
    assert [type(error) for error in found] == [IntegrityError] * 2
    assert [worker.exported for worker in workers] == [3, 3]
    assert steps(local) == []


def test_large_finite_values_whose_sum_is_not_are_saved(local):
    worker = Worker()
    worker.value = 1e38
    store_in(local).save(worker, RunState(step=1))
    assert steps(local) == [1]


def test_a_full_disk_is_every_worker_s_error_and_leaves_the_earlier_checkpoint(local, monkeypatch):
    save(store_in(local), 2)
    upload = Location.upload

    def full(self, source, name, digest=None):
        if source.name == "rank-1.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        upload(self, source, name, digest)

    monkeypatch.setattr(Location, "upload", full)
    found = run_workers(2, lambda worker: save(store_in(local), 4, worker=worker))
    assert [type(error) for error in found] == [StorageError] * 2
    assert "No space left" in str(found[0])
    assert str(found[0]) == str(found[1])
    assert restored(store_in(local)) == 2


class Killed(BaseException):
    pass


class Deadly:
    """Counts a location's calls that change something, and ends the writer at one of them: before it, or after it."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.dies_at = None
        for name in ("upload", "write", "remove", "walk", "read_many"):
            monkeypatch.setattr(Location, name, self._counted(getattr(Location, name)))

    def _counted(self, real):
        def counted(location, *args):
            self._count()
            done = real(location, *args)
            if real.__name__ != "walk":
                self._count()
            return done

        return counted

    def _count(self):
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed


def test_a_writer_killed_at_any_call_leaves_a_store_that_goes_on(location, monkeypatch):
    deadly = Deadly(monkeypatch)
    home = location.child("count")
    save(store_in(home, keep=1), 2, loss=0.5)
    save(store_in(home, keep=1), 4, loss=0.4)
    deadly.calls = 0
    save(store_in(home, keep=1), 6, loss=0.3)
    total = deadly.calls
    assert total >= 12
    seen = set()
    for point in range(1, total + 1, 1 if location.is_local else 3):
        home = location.child(f"at-{point}")
        deadly.dies_at = None
        save(store_in(home, keep=1), 2, loss=0.5)
        save(store_in(home, keep=1), 4, loss=0.4)
        deadly.calls, deadly.dies_at = 0, point
        with pytest.raises(Killed):
            save(store_in(home, keep=1), 6, loss=0.3)
        deadly.dies_at = None
        last = restored(store_in(home))
        seen.add(last)
        save(store_in(home, keep=1), last + 2, loss=0.2)
        assert restored(store_in(home)) == last + 2
        assert steps(home) == [last + 2], "what the killed one left is gone"
        assert len(files(home)) == 2
    assert seen == {4, 6}


@pytest.mark.parametrize("call", ["upload", "write", "walk", "read_many"])
def test_a_storage_that_fails_is_said_so_and_earlier_checkpoints_stay(local, monkeypatch, call):
    store = store_in(local)
    save(store, 2)

    def fail(*_):
        raise StorageError("The bucket does not answer.")

    with monkeypatch.context() as broken:
        broken.setattr(Location, call, fail)
        with pytest.raises(StorageError, match="does not answer"):
            save(store, 4)
    assert restored(store_in(local)) in {2, 4}


def test_a_storage_that_does_not_answer_is_no_beginning_anew(local, monkeypatch):
    save(store_in(local), 2)

    def fail(*_):
        raise StorageError("The bucket does not answer.")

    for call in ("walk", "read_many", "download"):
        with monkeypatch.context() as broken:
            broken.setattr(Location, call, fail)
            with pytest.raises(StorageError, match="does not answer"):
                store_in(local).restore(Worker())


def test_weights_of_a_damaged_checkpoint_are_an_error(local):
    store = store_in(local)
    stored = save(store, 2)
    local.write(of_step(local, 2, "rank-0"), b"")
    with pytest.raises(IntegrityError, match=r"step-00000002.*can't be read: rank-0.safetensors is not what was"):
        store.load_weights(Worker(), stored)
