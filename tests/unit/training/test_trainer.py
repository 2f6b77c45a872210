"""What the driver does around a run, with the plan and the workers replaced: no Ray here."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from webhook_server import WebhookServer

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, StorageError, TrainingError
from llamafarm_ray.storage import Location
from llamafarm_ray.training import trainer
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.checkpoints import CheckpointStore, RunState
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings
from llamafarm_ray.training.plan.identity import fingerprint_of
from llamafarm_ray.training.plan.inputs import TrainingCallbacks, TrainingInputs
from llamafarm_ray.training.plan.job import TrainingJob
from llamafarm_ray.training.plan.planning import Plan, _checkpoint_uri
from llamafarm_ray.training.plan.resources import WorkerResources
from llamafarm_ray.training.result import WorkerOutcome
from llamafarm_ray.training.strategies import Place
from llamafarm_ray.training.tokens.tokenised import TokenisedData
from llamafarm_ray.types import ModelKind


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """A function that runs `train` into ``tmp_path / "out"`` with ``workers`` in the place of Ray Train."""

    def make_plan(config, inputs, folder, _note, **_):
        tuning = config.fine_tuning
        tokenised = TokenisedData(None, "", 8, 64, 8.0, {})
        facts = {"seed": config.seed}
        fingerprint = fingerprint_of(facts)
        job = TrainingJob(
            base_model=inputs.base_model,
            folder=folder,
            checkpoints=_checkpoint_uri(tuning.training.checkpoint_location, folder, fingerprint),
            fingerprint=fingerprint,
            method=tuning.method,
            parameters=tuning.parameters,
            objective=tuning.objective,
            objective_settings=None,
            max_length=64,
            strategy="single",
            precision="fp32",
            packed=False,
            training=tuning.training,
            distributed=tuning.distributed,
            seed=config.seed,
            plan=BatchPlan(8, 1, 1),
            validation_plan=None,
            num_steps=8,
            checkpoint_every_steps=2,
            evaluate_every_steps=8,
            context_tokens=8.0,
            observers=ObserverSettings.of(config, run_id="run-1"),
        )
        return Plan(job, WorkerResources(1, 1.0, use_gpu=False), tokenised, None, facts)

    def begin(workers, *, seed=0, monitoring=None, training=None, method="lora", objective="sft", **options):
        config = parse_config(
            {
                "name": "bot",
                "seed": seed,
                "monitoring": {"tensorboard": False, **(monitoring or {})},
                "fine_tuning": {"method": method, "objective": objective, "training": training or {}},
            }
        )
        monkeypatch.setattr(trainer, "make_plan", make_plan)
        monkeypatch.setattr(trainer, "_run_workers", lambda plan, *_: workers(plan))
        return trainer.train(
            config,
            TrainingInputs(None, None, tmp_path / "base"),
            tmp_path / "out",
            **options,
        )

    return begin


def fail_with(error):
    def workers(_plan):
        raise error

    return workers


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (TrainingError("Training has stood still for 31 s."), TrainingError),
        (OSError(28, "No space left on device"), StorageError),
        (KeyError("losses"), KeyError),
    ],
)
def test_every_failure_is_told_once_and_leaves_a_page(begin, tmp_path, error, raised):
    with WebhookServer() as hook, pytest.raises(raised):
        begin(fail_with(error), monitoring={"alerting": {"webhook": hook.url}})
    assert [body["alert"]["kind"] for body in hook.bodies] == ["failure"]
    output = tmp_path / ".out.run" / "output"
    assert 'class="outcome failed"' in (output / "report.html").read_text(encoding="utf-8")
    assert [json.loads(line)["event"] for line in (output / "history.jsonl").read_text().splitlines()] == ["alert"]


def test_a_stop_by_the_keyboard_is_no_failure_and_leaves_nothing_before_a_checkpoint(begin, tmp_path):
    with WebhookServer() as hook, pytest.raises(KeyboardInterrupt):
        begin(fail_with(KeyboardInterrupt()), monitoring={"alerting": {"webhook": hook.url}})
    assert hook.bodies == []
    assert list(tmp_path.iterdir()) == []


def finish(plan):
    plan.job.folder.output.mkdir(parents=True, exist_ok=True)
    (plan.job.folder.output / "model.safetensors").write_text(f"seed {plan.job.seed}")
    done = {"num_steps": 8, "num_tokens": 64, "num_counted": 32, "seconds": 1.0, "losses": [1.0]}
    return WorkerOutcome(**done, validation_loss=None, num_workers=1, num_trainable_parameters=9)


@pytest.mark.parametrize(
    ("method", "objective", "kind"),
    [
        ("full", "contrastive", ModelKind.EMBEDDING),
        ("lora", "contrastive", ModelKind.ADAPTER),
        ("full", "sft", ModelKind.BASE),
    ],
)
def test_a_whole_model_that_learnt_vectors_is_an_embedding_model(begin, tmp_path, method, objective, kind):
    assert begin(finish, method=method, objective=objective).kind is kind
    assert json.loads((tmp_path / "out" / "training.json").read_text())["kind"] == kind


class Worker:
    """The part of a strategy that checkpoints use."""

    place = Place(0, 1, torch.device("cpu"))

    def gather(self, value):
        return [value]

    def export_state(self):
        yield "a", {"weight": torch.ones(1)}

    def loss_scale(self):
        return None


def checkpoint_then_fail(plan):
    store = CheckpointStore(Location(plan.job.checkpoints), fingerprint=plan.job.fingerprint)
    store.save(Worker(), RunState(step=2))
    raise TrainingError("Lost.")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_unfinished_run_with_other_settings_is_kept_wherever_its_checkpoints_lie(begin, tmp_path, elsewhere):
    training = {"checkpoint_location": str(tmp_path / "bucket")} if elsewhere else {}
    with pytest.raises(TrainingError):
        begin(checkpoint_then_fail, training=training)
    # Its place counts, also where the new settings have another one.
    with pytest.raises(ConflictError, match=r"a checkpoint after step 2\) differs from this one in seed"):
        begin(checkpoint_then_fail, seed=1)
    notes = []
    with pytest.raises(TrainingError):
        begin(fail_with(TrainingError("Lost.")), training=training, callbacks=TrainingCallbacks(on_note=notes.append))
    assert notes == ["An unfinished run goes on after step 2 of 8."]
    with pytest.raises(TrainingError):
        begin(fail_with(TrainingError("Lost.")), seed=1, restart=True)
    assert list(tmp_path.rglob("checkpoint.json")) == []


def test_a_run_folder_that_was_moved_is_still_known(begin, tmp_path):
    with pytest.raises(TrainingError):
        begin(checkpoint_then_fail)
    identity = json.loads((tmp_path / ".out.run" / "run.json").read_text())
    assert str(tmp_path) not in json.dumps(identity)


def test_checkpoints_whose_storage_does_not_answer_are_not_lost_unless_that_is_asked_for(begin, tmp_path, monkeypatch):
    training = {"checkpoint_location": str(tmp_path / "bucket")}
    with pytest.raises(TrainingError):
        begin(checkpoint_then_fail, training=training)
    walk = Location.walk

    def fail(location, folder):
        if "bucket" in location.uri:
            raise StorageError("The bucket does not answer.")
        return walk(location, folder)

    monkeypatch.setattr(Location, "walk", fail)
    with pytest.raises(StorageError):
        begin(checkpoint_then_fail, seed=1)
    notes = []
    with pytest.raises(TrainingError):
        begin(
            fail_with(TrainingError("Lost.")), seed=1, restart=True, callbacks=TrainingCallbacks(on_note=notes.append)
        )
    assert notes[0] == "The checkpoints of the earlier run could not be removed: The bucket does not answer."


def never(_plan):
    raise AssertionError("there is nothing left to train")


def save_and_finish(plan):
    CheckpointStore(Location(plan.job.checkpoints), fingerprint=plan.job.fingerprint).save(Worker(), RunState(step=2))
    return finish(plan)


@pytest.fixture
def killed(begin, tmp_path, tmp_path_factory, monkeypatch):
    """The disk as a kill leaves it while the output of seed 1 takes the place of that of seed 0."""
    begin(finish, seed=0)
    disk = tmp_path_factory.mktemp("disk") / "copy"
    rename = Path.rename

    def strike(path, target):
        if path.name == "output":
            shutil.copytree(tmp_path, disk)
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", strike)
        with pytest.raises(KeyboardInterrupt):
            begin(save_and_finish, seed=1, overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_text() == "seed 0", "who can still act puts it back"
    shutil.rmtree(tmp_path)
    shutil.copytree(disk, tmp_path)
    assert not (tmp_path / "out").exists()
    return tmp_path / "out" / "model.safetensors"


def test_a_run_that_was_killed_while_its_output_took_its_place_is_finished_by_the_same_command(begin, tmp_path, killed):
    notes = []
    result = begin(never, seed=1, overwrite=True, callbacks=TrainingCallbacks(on_note=notes.append))
    assert killed.read_text() == "seed 1"
    assert (result.config["seed"], result.losses) == (1, [1.0])
    assert "is whole" in notes[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_another_command_after_such_a_kill_finds_the_output_there(begin, tmp_path, killed):
    with pytest.raises(ConflictError, match="exists already"):
        begin(never, seed=2)
    assert killed.read_text() == "seed 1"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    begin(finish, seed=2, overwrite=True)
    assert killed.read_text() == "seed 2"


def test_an_older_output_that_a_kill_left_aside_is_in_nobodys_way(begin, tmp_path):
    begin(finish, seed=0)
    aside = tmp_path / ".out.run" / "replaced"
    aside.mkdir(parents=True)
    (aside / "model.safetensors").write_text("older")
    begin(finish, seed=1, overwrite=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
