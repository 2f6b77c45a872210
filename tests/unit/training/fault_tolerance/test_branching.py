"""Runs that begin with what another run had learnt."""

import json
import os

import pytest
import torch

from llamafarm_ray.errors import ConflictError, InputError, IntegrityError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.checkpoints import CheckpointStore, RunState
from llamafarm_ray.training.fault_tolerance.branching import BeginWith, branch, keep_checkpoints
from llamafarm_ray.training.plan.identity import fingerprint_of
from llamafarm_ray.training.plan.job import RunFolder
from llamafarm_ray.training.strategies import Place

FACTS = {"method": "lora", "rows": "abc", "training": {"learning_rate": 1e-2, "batch_size": 4}}


class Worker:
    """The part of a strategy that checkpoints use: one parameter."""

    def __init__(self, value=0.0):
        self.place = Place(0, 1, torch.device("cpu"))
        self.value = value

    def gather(self, value):
        return [value]

    def export_state(self):
        yield "weight", {"weight": torch.full((2,), self.value)}

    def import_state(self, state, _num_updates):
        self.value = float(state["weight"]["weight"][0])

    def loss_scale(self):
        return None


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints after steps 2, 4 and 6, in each of which the parameter is the step's number."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.identity.write_text(json.dumps({"facts": FACTS, "checkpoints": None}))
    store = CheckpointStore(Location(folder.path), fingerprint=fingerprint_of(FACTS), keep=9)
    for step in (2, 4, 6):
        state = RunState(step=step, num_updates=step, losses=[1.0] * step, validation=[(step, 1.0)])
        store.save(Worker(float(step)), state)
    return folder


def new_store(tmp_path, facts):
    return CheckpointStore(Location(tmp_path / "new"), fingerprint=fingerprint_of(facts))


def test_a_run_begins_where_another_one_was_with_other_settings(run, tmp_path):
    facts = FACTS | {"training": {"learning_rate": 5e-3, "batch_size": 4}}
    store, worker = new_store(tmp_path, facts), Worker()
    branch(facts, store, BeginWith(run.path, 4))
    state = store.restore(worker)
    assert (worker.value, state.step, state.losses, state.validation) == (4.0, 4, [1.0] * 4, [(4, 1.0)])


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (FACTS | {"rows": "other"}, "rows"),
        (FACTS | {"training": {"learning_rate": 1e-2, "batch_size": 8}}, "training.batch_size"),
    ],
)
def test_what_decides_about_shapes_or_rows_can_t_change(run, tmp_path, facts, named):
    with pytest.raises(ConflictError, match=f"differ in {named}"):
        branch(facts, new_store(tmp_path, facts), BeginWith(run.path, 4))


def test_a_step_without_a_checkpoint_and_a_folder_without_a_run_are_named(run, tmp_path):
    for begin_with in (BeginWith(run.path, 5), BeginWith(tmp_path / "none", 4)):
        with pytest.raises(InputError, match=f"no checkpoint after step {begin_with.step}"):
            branch(FACTS, new_store(tmp_path, FACTS), begin_with)


def test_a_damaged_checkpoint_is_an_error_and_leaves_nothing(run, tmp_path):
    (file,) = run.path.glob("checkpoints/step-00000004-*/rank-0.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    store = new_store(tmp_path, FACTS)
    with pytest.raises(IntegrityError, match="damaged"):
        branch(FACTS, store, BeginWith(run.path, 4))
    assert store.find() == []


def test_what_is_kept_outlasts_the_run_and_can_be_begun_with(run, tmp_path):
    kept = tmp_path / "kept"
    assert keep_checkpoints(run, 4, kept) == {4}
    CheckpointStore(Location(run.path), fingerprint=fingerprint_of(FACTS)).clear()
    assert keep_checkpoints(run, 4, kept) == {4}, "what is kept already"
    store, worker = new_store(tmp_path, FACTS), Worker()
    branch(FACTS, store, BeginWith(kept, 4))
    store.restore(worker)
    assert worker.value == 4.0


@pytest.mark.parametrize("num_links", range(2))
def test_what_is_half_kept_does_not_count_and_is_kept_the_next_time(run, tmp_path, monkeypatch, num_links):
    real, left = os.link, [num_links]

    def link(source, target):
        if not left[0]:
            raise FileNotFoundError(source)
        left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        assert keep_checkpoints(run, 6, tmp_path / "kept") == set()
    assert keep_checkpoints(run, 6, tmp_path / "kept") == {6}


def test_without_links_they_are_copied(run, tmp_path, monkeypatch):
    def link(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    assert keep_checkpoints(run, 2, tmp_path / "kept") == {2, 4, 6}
