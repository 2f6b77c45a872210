import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llamafarm_ray.config import MethodParameters, parse_config
from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.models.loading import inspect_architecture
from llamafarm_ray.training.checkpoints import RunState, StoredCheckpoint
from llamafarm_ray.training.methods.auto import Hardware
from llamafarm_ray.training.plan.choosing import choose
from llamafarm_ray.training.plan.job import RunFolder
from llamafarm_ray.training.plan.learning_rate import choose_learning_rate
from llamafarm_ray.training.plan.planning import _checkpoint_uri, _decisive, _layers_of
from llamafarm_ray.training.plan.resources import WorkerResources
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.worker import _layout, _Run


def test_checkpoints_lie_in_the_run_s_folder_unless_a_place_is_named(tmp_path):
    assert _checkpoint_uri(None, RunFolder(tmp_path / ".out.run"), "f" * 64) == str(tmp_path / ".out.run")


def test_a_relative_place_is_absolute_for_workers_with_other_current_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = _checkpoint_uri("here", RunFolder(Path("/runs/.out.run")), "f" * 64)
    assert found.startswith(f"{tmp_path}/here/out.run-")


def test_two_outputs_and_two_fingerprints_have_places_of_their_own():
    places = {
        _checkpoint_uri("s3://bucket/runs/", RunFolder(Path(folder, ".out.run")), fingerprint * 64)
        for folder in ("/a", "/b")
        for fingerprint in "fg"
    }
    assert len(places) == 4
    assert all(place.startswith("s3://bucket/runs/out.run-") for place in places)


@pytest.mark.parametrize(("method", "expected"), [("lora", "deepspeed_zero3"), ("qlora", "deepspeed_zero2")])
def test_offloading_that_is_asked_for_chooses_a_strategy_that_does_it(base_model, method, expected):
    config = parse_config({"fine_tuning": {"method": method, "distributed": {"offload": "cpu"}}})
    reasons = []
    chosen = choose(
        config,
        hardware=Hardware(num_cpus=4),
        workers=WorkerResources(1, 1.0, use_gpu=False),
        architecture=inspect_architecture(base_model),
        num_rows=10,
        passes=1,
        max_length=64,
        reasons=reasons,
    )
    assert chosen.strategy == expected
    assert any("offload is set" in reason for reason in reasons)


def test_epochs_batches_and_rate_are_decided_and_told(base_model):
    reasons = []
    architecture = inspect_architecture(base_model)
    chosen = choose(
        parse_config({"fine_tuning": {"method": "lora"}}),
        hardware=Hardware(num_cpus=4),
        workers=WorkerResources(1, 1.0, use_gpu=False),
        architecture=architecture,
        num_rows=500,
        passes=4,
        max_length=64,
        reasons=reasons,
    )
    width = architecture.hidden_size
    rate = choose_learning_rate("auto", method="lora", objective="sft", hidden_size=width, passes=4)
    assert (chosen.training.epochs, chosen.training.batch_size, chosen.training.learning_rate) == (1.0, 2, rate)
    assert Schedule.of(chosen.training, 100).peak == rate
    told = " ".join(reasons)
    assert "Epochs are 1: the dataset is written in 4 passes over its questions." in told
    assert "A batch is 2 rows, for a run of 1 x 500 rows." in told


def layers_chosen(architecture, *, passes=8, num_gpus=0, method="lora", reasons=None, begun_with=None, **parameters):
    chosen = choose(
        parse_config({"fine_tuning": {"method": method, "parameters": parameters}}),
        hardware=Hardware(num_cpus=4, num_gpus=num_gpus, gpu_memory_bytes=num_gpus * 2**34),
        workers=WorkerResources(1, 1.0, use_gpu=bool(num_gpus)),
        architecture=architecture,
        num_rows=100,
        passes=passes,
        max_length=64,
        reasons=[] if reasons is None else reasons,
        begun_with=begun_with,
    )
    return chosen.parameters.layers_to_transform


def test_on_a_cpu_the_upper_blocks_learn_what_the_base_model_asked(base_model, tmp_path):
    config = json.loads((base_model / "config.json").read_text()) | {"num_hidden_layers": 7, "layer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    deep, reasons = inspect_architecture(tmp_path), []
    assert layers_chosen(deep, reasons=reasons) == (2, 3, 4, 5, 6)
    assert any("The 5 upper of 7 blocks are adapted" in reason for reason in reasons)
    assert layers_chosen(deep, method="full") == "auto"
    assert layers_chosen(deep, method="hybrid_lora_adapter") == "auto"
    assert layers_chosen(deep, target_modules=["layers.0.self_attn.q_proj"]) == "auto"
    assert layers_chosen(deep, rank_pattern={"layers.0.self_attn.q_proj": 4}) == "auto"
    assert layers_chosen(deep, passes=1) == "auto"
    assert layers_chosen(deep, num_gpus=1) == "auto"
    assert layers_chosen(deep, layers_to_transform="all") == "all"
    assert layers_chosen(deep, layers_to_transform=[0, 1]) == (0, 1)
    assert layers_chosen(inspect_architecture(base_model)) == "auto"  # two blocks are few


def test_a_run_goes_on_with_the_blocks_that_it_began_with_whatever_machine_joins(base_model, tmp_path):
    config = json.loads((base_model / "config.json").read_text()) | {"num_hidden_layers": 7, "layer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    deep, reasons = inspect_architecture(tmp_path), []
    assert layers_chosen(deep, num_gpus=1, begun_with=(2, 3, 4, 5, 6), reasons=reasons) == (2, 3, 4, 5, 6)
    assert any("The 5 upper of 7 blocks are adapted, as when the run began." in reason for reason in reasons)
    assert layers_chosen(deep, begun_with="all") == "auto"
    assert layers_chosen(deep, num_gpus=1, begun_with=(0, 1)) == "auto", "the configuration named them then"
    assert layers_chosen(deep, begun_with=(2, 3), layers_to_transform="all") == "all"
    for layers, kept in (((2, 3), (2, 3)), ("auto", "all")):
        facts = {"rows": "r", "base_model": "b", "parameters": _decisive(MethodParameters(layers_to_transform=layers))}
        assert _layers_of(facts, rows="r", base_digest="b") == kept
        assert _layers_of(facts, rows="others", base_digest="b") is None
    assert _layers_of(None, rows="r", base_digest="b") is None


@pytest.mark.parametrize("layers", ["auto", "all"])
def test_a_run_from_before_layers_could_be_chosen_goes_on(layers):
    assert "layers_to_transform" not in _decisive(MethodParameters(layers_to_transform=layers))
    assert _decisive(MethodParameters(layers_to_transform=(3,)))["layers_to_transform"] == [3]


@pytest.mark.parametrize(("device", "shares_prefix"), [("cpu", True), ("cuda", False)])
def test_prefixes_are_shared_on_cpus(base_model, device, shares_prefix):
    layout = _layout(SimpleNamespace(packed=True, base_model=base_model), torch.device(device))
    assert (layout.packed, layout.shares_prefix) == (True, shares_prefix)


@pytest.mark.parametrize(("dtype", "is_half"), [("float32", False), ("bfloat16", True), ("float16", True)])
def test_the_config_says_whether_weights_are_kept_in_16_bits(base_model, tmp_path, dtype, is_half):
    config = json.loads((base_model / "config.json").read_text()) | {"dtype": dtype}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert inspect_architecture(tmp_path).is_half is is_half


class _Store:
    def __init__(self, damaged):
        self.damaged, self.loaded = damaged, []

    def by_loss(self, _strategy):
        return [StoredCheckpoint(f"step-{step}", step, float(step), {}, {}) for step in (1, 2, 3)]

    def load_weights(self, _strategy, stored):
        if stored.step in self.damaged:
            raise IntegrityError(f"The checkpoint {stored.name} can't be read.")
        self.loaded.append(stored.step)


@pytest.mark.parametrize(("damaged", "loaded", "loss"), [((), [1], 1.0), ((1, 2), [3], 3.0), ((1, 2, 3), [], None)])
def test_damaged_best_weights_give_way_to_the_next_best_and_to_those_there_are(damaged, loaded, loss):
    run = _Run.__new__(_Run)
    run._store, run._strategy = _Store(damaged), None
    assert run._take_best(RunState(step=4, validation=[(1, 1.0), (4, 5.0)])) == loss
    assert run._store.loaded == loaded
