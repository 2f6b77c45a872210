"""Training on a real Ray: workers, strategies, what is left of a run."""

import json
import math
import shutil

import psutil
import pytest
from otlp import collecting
from safetensors.torch import load_file, save_file
from tiny_model import make_rows, make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, InputError, TrainingError, UserError
from llamafarm_ray.telemetry.traces import step, traced
from llamafarm_ray.training import trainer
from llamafarm_ray.training.fault_tolerance.branching import BeginWith, keep_checkpoints
from llamafarm_ray.training.fault_tolerance.channel import ProgressChannel
from llamafarm_ray.training.plan.job import RunFolder

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base")


def start(
    base,
    output,
    *,
    rows=None,
    num_blocks=2,
    validate=True,
    fine_tuning=None,
    tokens=None,
    on_progress=None,
    on_note=None,
    **options,
):
    """Train on some rows; every run's schedule is the same, so that runs of different lengths begin alike."""
    import ray.data

    from llamafarm_ray.training import TrainingCallbacks, TrainingInputs, train

    fine_tuning = dict(fine_tuning or {})
    training = {"epochs": 30.0, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
    training |= {"checkpoint_every_steps": 2}
    training |= {"lr_scheduler": "constant", "warmup_steps": 0, "log_every_s": 0.0}
    fine_tuning["training"] = training | fine_tuning.get("training", {})
    inputs = TrainingInputs(
        ray.data.from_items(make_rows(11) if rows is None else rows, override_num_blocks=num_blocks),
        ray.data.from_items(make_rows(3), override_num_blocks=1) if validate else None,
        base,
        lineage={"dataset": "animals"},
        tokens=tokens,
    )
    callbacks = TrainingCallbacks(on_progress, on_note)
    return train(parse_config({"fine_tuning": fine_tuning}), inputs, output, callbacks=callbacks, **options)


SETTINGS = ("method", "objective", "parameters", "training", "distributed")


@pytest.fixture
def run(base_model, tmp_path):
    """A function that trains into ``tmp_path / "out"``."""

    def run(name="out", *, base=base_model, **options):
        fine_tuning = {key: options.pop(key) for key in SETTINGS if key in options}
        return start(base, tmp_path / name, fine_tuning=fine_tuning, **options)

    return run


@pytest.fixture(scope="module")
def collector():
    """Gets the spans of the run that nothing disturbed."""
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def finished(base_model, tmp_path_factory, collector):
    """A run that nothing disturbed: its folder, its result, its progress."""
    seen = []
    folder = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
        with traced(collector.url, "run"), step("train"):
            result = start(base_model, folder, on_progress=seen.append)
    return folder, result, seen


def trained(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_one_worker_trains_an_adapter_that_appears_whole(finished, base_model):
    output, result, seen = finished
    assert (result.method, result.strategy, str(result.kind)) == ("lora", "single", "adapter")
    assert len(result.reasons) >= 2, "method and strategy were left open, and both choices say why"
    assert result.num_steps == 30 * 3
    assert [progress.loss for progress in seen] == result.losses
    assert result.losses[-1] < result.losses[0]
    assert math.isfinite(result.metrics["validation_loss"])

    assert [path.name for path in output.parent.iterdir()] == ["out"], "the run's own folder is gone"
    assert json.loads((output / "training.json").read_text()) == result.to_dict()
    assert result.lineage == {"dataset": "animals"}
    assert (output / "tokenizer.json").read_bytes() == (base_model / "tokenizer.json").read_bytes()
    assert list((output / "tensorboard").glob("events*"))
    assert all(bool(weight.any()) for name, weight in trained(output).items() if "lora_B" in name)


def test_a_run_is_one_trace_of_driver_and_worker(finished, collector):
    expected = {"run", "train", "steps", "validation", "checkpoint"}

    def is_whole(spans):
        last = max((span.attributes["llamafarm.last_step"] for span in spans if span.name == "steps"), default=0)
        num_validations = sum(span.name == "validation" for span in spans)
        return expected <= {span.name for span in spans} and (last, num_validations) == (90, 30)

    spans = collector.wait(is_whole)
    by_name = {span.name: span for span in spans}
    assert len({span.trace for span in spans}) == 1
    assert {by_name[name].parent for name in ("steps", "validation", "checkpoint")} == {by_name["train"].span}
    assert max(span.attributes["llamafarm.last_step"] for span in spans if span.name == "steps") == 90
    validated = [span.attributes["llamafarm.step"] for span in spans if span.name == "validation"]
    assert validated == list(range(3, 91, 3)), "after each epoch"


def test_rows_come_in_the_same_order_however_many_blocks_hold_them(base_model, monkeypatch):
    import ray.data

    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.tokens import tokenised

    def tokenise(num_blocks):
        rows = ray.data.from_items(make_rows(60), override_num_blocks=num_blocks)
        found = tokenised.tokenise(
            rows, base_model=base_model, objective=find_objective("sft"), max_length=64, seed=1, name="training"
        )
        return found.digest, [list(row["input_ids"]) for row in found.dataset.iter_rows()]

    expected = tokenise(1)
    monkeypatch.setattr(tokenised, "_BLOCK_TOKENS", 100)
    assert tokenise(7) == expected


def test_a_run_on_tokens_made_ahead_learns_what_a_run_on_rows_learns(finished, base_model, run, tmp_path, monkeypatch):
    import ray.data

    from llamafarm_ray.training import TokenStore, prepare_tokens
    from llamafarm_ray.training.plan import planning

    def prepare():
        return prepare_tokens(
            parse_config({}),
            train_rows=ray.data.from_items(make_rows(11)),
            validation_rows=ray.data.from_items(make_rows(3)),
            base_model=base_model,
            store=store,
        )

    store = TokenStore(tmp_path / "tokens", "sha256:animals")
    made = prepare()
    assert (made.num_rows, made.is_new) == ({"training": 11, "validation": 3}, True)
    assert prepare().is_new is False
    monkeypatch.delattr(planning, "tokenise")
    _, expected, _ = finished
    result = run(tokens=store, training={"max_steps": 6})
    assert result.losses == pytest.approx(expected.losses[:6], rel=1e-6)
    assert any("were tokenized before" in reason for reason in result.reasons)


def test_a_dataset_keeps_tokens_that_train_finds_for_the_same_settings(base_model, tmp_path):
    from llamafarm_ray.data.rows import Example, Message
    from llamafarm_ray.data.writing import target_for
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.tokens import prepare
    from llamafarm_ray.workflows.training.train import TrainingRun

    folder = tmp_path / "qa"
    target = target_for(folder, "chatml", overwrite=False)
    chats = [tuple(Message(turn["role"], turn["content"]) for turn in row["messages"]) for row in make_rows(6)]
    described = {"digest": f"sha256:{'0' * 64}", "num_train": 6, "num_validation": 0, "documents": []}
    with target.open():
        target.add("train", [Example(chat, "d", "sha256:0", "p").row() for chat in chats])
        target.finish(described, {})
        target.publish()
    registry = open_registry(str(tmp_path / "home"))

    def config(**changes):
        return parse_config({"base_model": str(base_model), "dataset": {"path": str(folder)}, **changes})

    made = prepare(config(), registry, folder)
    assert (made.num_rows, made.is_new, made.num_dropped) == ({"training": 6}, True, {})
    run = TrainingRun.prepare(config(), registry, output=tmp_path / "out")
    *_, store = run._open_dataset(None)
    (description,) = folder.glob("_tokens/*/tokens.json")
    assert json.loads(description.read_text())["rows"] == store.rows
    assert prepare(config(), registry, folder).is_new is False
    assert prepare(config(seed=7), registry, folder).is_new is True


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["deepspeed_zero3", "ddp"])
def test_two_workers_learn_what_one_that_accumulates_does(run, finished, tmp_path, strategy):
    # No validation: its forward passes would gather the weights, and hide that saving forgot to.
    training, distributed = {"gradient_accumulation_steps": 1, "epochs": 2.0}, {"workers": 2, "strategy": strategy}
    two = run(training=training, distributed=distributed, validate=False)
    output, one, _ = finished
    assert (two.strategy, two.num_workers, one.num_workers) == (strategy, 2, 1)
    assert two.losses == pytest.approx(one.losses[:6], abs=1e-4)
    got = trained(tmp_path / "out")
    assert got.keys() == trained(output).keys()
    assert all(bool(weight.any()) for weight in got.values())


def test_an_error_in_a_worker_comes_back_as_itself_and_leaves_no_output(run, tmp_path, base_model):
    # A weight that is not a number passes every check of the folder, and spoils the first loss.
    broken = tmp_path / "broken"
    shutil.copytree(base_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(TrainingError, match="loss of step 1 is nan") as caught:
        run(base=broken)
    assert "ray" not in str(caught.value).lower().replace(str(tmp_path).lower(), "")
    kept = [path for path in tmp_path.iterdir() if path.name == ".out.run"]
    assert not (tmp_path / "out").exists()
    assert len(kept) == 1
    assert str(kept[0]) in caught.value.hint
    assert "TrainingError" in (kept[0] / "logs" / "worker-0.log").read_text()


class Enough(Exception):  # noqa: N818 - not an error
    pass


def stop_after(step):
    def stop(progress):
        if progress.step == step:
            raise Enough

    return stop


@pytest.mark.long
def test_a_run_that_was_stopped_before_its_first_checkpoint_leaves_nothing(run, tmp_path):
    with pytest.raises(Enough):
        run(on_progress=stop_after(1), training={"epochs": 10000.0, "checkpoint_every_steps": 10000, "max_steps": 9999})
    assert [path for path in tmp_path.iterdir() if path.name != ".out.run"] == []


def test_a_run_that_was_stopped_and_lost_its_worker_goes_on_to_the_same_result_bit_for_bit(
    finished, run, tmp_path, monkeypatch
):
    """In the middle of the second epoch, and from rows in other blocks."""
    output, whole, _ = finished
    with pytest.raises(Enough):
        run(on_progress=stop_after(5))
    assert not (tmp_path / "out").exists()

    with pytest.raises(ConflictError, match=r"differs from this one in training.learning_rate.*"):
        run(training={"learning_rate": 5e-3})
    killed = tmp_path / "killed"

    class KillsTheWorker(ProgressChannel):
        """Kills a worker that has trained twelve steps, once, as soon as it tells of them."""

        def put(self, steps):
            super().put(steps)
            if steps and steps[-1].step >= 12 and not killed.exists():
                workers = [one for one in psutil.Process().parent().children() if "RayTrainW" in one.name()]
                killed.write_text("\n".join(str(one.pid) for one in workers))
                for worker in workers:
                    worker.kill()

    # Not from this process: it hears of steps every half second, and the run takes no longer.
    monkeypatch.setattr(trainer, "ProgressChannel", KillsTheWorker)
    notes, seen = [], []
    rest = run(on_note=notes.append, on_progress=seen.append, training={"keep_checkpoints": 5}, num_blocks=4)
    assert seen[0].step >= 5
    assert any("goes on after step" in note for note in notes)
    assert len(killed.read_text().split()) == 1
    assert any("started again" in note for note in notes)
    assert rest.num_steps == len(rest.losses) == 90
    assert rest.losses == whole.losses
    assert rest.metrics == whole.metrics
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (output / name).read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        run()


@pytest.mark.long
def test_a_run_begins_with_what_another_one_had_learnt(run, tmp_path):
    """With the same settings it ends as the other one did, and with other settings it goes its own way."""
    training = {"epochs": 4.0, "checkpoint_every_steps": 4, "keep_checkpoints": 5}
    folder, kept = RunFolder(tmp_path / ".whole.run"), tmp_path / "kept"
    whole = run("whole", training=training, on_progress=lambda _: keep_checkpoints(folder, 4, kept))
    seen, notes = [], []
    begin_with = BeginWith(kept, 8)
    same = run("same", training=training, begin_with=begin_with, on_progress=seen.append, on_note=notes.append)
    assert (seen[0].step, same.losses) == (9, whole.losses)
    assert any("begins after step 8" in note for note in notes)
    assert (tmp_path / "same" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "whole" / "adapter_model.safetensors"
    ).read_bytes()

    other = run("other", training={**training, "learning_rate": 1e-4}, begin_with=begin_with)
    assert other.losses[:9] == whole.losses[:9], "the ninth step's loss is of weights before it"
    assert other.losses[9:] != whole.losses[9:]
    with pytest.raises(ConflictError, match=r"differ in training\.batch_size"):
        run("batch", training={**training, "batch_size": 4, "gradient_accumulation_steps": 1}, begin_with=begin_with)


@pytest.mark.long
def test_an_unfinished_run_can_be_forgotten(run, tmp_path):
    training = {"epochs": 2.0, "checkpoint_every_steps": 1}
    with pytest.raises(Enough):
        run(on_progress=stop_after(3), training=training)
    seen = []
    run(on_progress=seen.append, training={**training, "learning_rate": 5e-3}, restart=True)
    assert seen[0].step == 1


@pytest.mark.long
def test_checkpoints_may_lie_elsewhere_and_the_best_weights_be_kept(run, tmp_path):
    place = tmp_path / "checkpoints"
    training = {"epochs": 4.0, "keep_best": True, "checkpoint_location": str(place), "learning_rate": 5e-2}
    result = run(training=training)
    entries = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if entry.get("event") == "validation"]
    assert len(losses) == 4
    assert result.metrics["validation_loss"] == pytest.approx(min(losses))
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert [path for path in place.rglob("*") if path.is_file()] == [], "a finished run leaves none"


@pytest.mark.long
def test_as_many_workers_as_the_cluster_has_train_an_elastic_run_on_the_same_windows(run):
    elastic = run("elastic", distributed={"workers": [1, 2]})
    fixed = run("fixed", distributed={"workers": 2})
    assert elastic.losses == pytest.approx(fixed.losses, abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], InputError, "no training row"),
        ([{"messages": [{"role": "user", "content": "?"}]}], InputError, "1 dropped: no assistant turn"),
        ([{"text": "a"}], InputError, "no column 'messages', only text"),
    ],
    ids=["none", "no answers", "other columns"],
)
def test_rows_that_cant_be_trained_on_are_refused(run, tmp_path, rows, error, message):
    with pytest.raises(error, match=message):
        run(rows=rows, num_blocks=1)
    assert list(tmp_path.iterdir()) == []


def test_too_many_workers_and_unknown_targets_are_refused_before_anything_runs(run):
    with pytest.raises(UserError, match="the cluster has"):
        run(distributed={"workers": 64})
    with pytest.raises(UserError, match="Did you mean q_proj"):
        run(method="lora", parameters={"target_modules": ["q_prj"]})
