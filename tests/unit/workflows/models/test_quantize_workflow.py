"""A quantized model knows what it was made from and what that costs, and `auto` chooses by what was measured."""

import json
import math

import pytest
import torch
from tiny_model import make_tiny_model

from llamafarm_ray.cli.main import run
from llamafarm_ray.errors import ConflictError, DeploymentError, InputError, NotFoundError, UnsupportedError
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.quantize.schemes import SCHEMES
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.lineage import trace
from llamafarm_ray.serving.optimize.speed import Speed
from llamafarm_ray.serving.routing.resolution import resolve
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.deployments.deploy import with_model
from llamafarm_ray.workflows.models import quantize as workflow
from llamafarm_ray.workflows.models.quantize import quantize
from llamafarm_ray.workflows.versions.register import Registration, register, stated

SPEEDS = {"w8a8": 40.0, "int4": 60.0, "gguf-q8_0": 59.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("quantize") / "base")


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"))


def servable(_device):
    return [SCHEMES[name] for name in SPEEDS]


@pytest.fixture
def three_schemes(monkeypatch):
    monkeypatch.setattr(workflow, "servable_here", servable)


@pytest.fixture(scope="module")
def front(base, tmp_path_factory):
    """The result of three schemes under a budget that each meets; those on the front are kept."""
    folder = tmp_path_factory.mktemp("front")
    registry, options = RegistryService(Location(folder / "home")), {"keep": "front", "measure": measured}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "servable_here", servable)
        return quantize(registry, str(base), folder / "out", budget="quality>=0", **options)


def measured(trial):
    name = next(name for name in SPEEDS if f"/{name}" in trial.model)
    return Speed(0.05, SPEEDS[name])


def test_a_quantized_version_has_its_base_and_its_difference_in_its_lineage(base, registry, tmp_path):
    source = register(registry, Registration(base, name="tiny"))
    made = quantize(registry, "tiny", tmp_path / "out", scheme="int4", measure=None)
    record = register(registry, Registration(made.path, name="tiny-int4"))
    facts = record.registered
    assert facts.kind is ModelKind.QUANTIZED
    assert (facts.base_model, facts.base_digest) == ("tiny", source.registered.manifest)
    assert facts.derived_from == (source.registered.manifest,)
    assert facts.parameters["scheme"] == "int4"
    assert facts.parameters["quality"] == made.chosen.quality
    assert facts.parameters["difference"]["mean_kl"] == made.chosen.difference["mean_kl"]
    edges = {(edge.source, edge.target, edge.relation) for edge in trace(registry.state, "tiny-int4", "down").edges}
    assert (f"model:{record.ref}", f"model:{source.ref}", "is derived from") in edges
    said = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert said["source_digest"] == made.source_digest == source.registered.manifest
    assert {"compressed-tensors", "transformers"} <= said["tools"].keys()
    assert register(registry, Registration(made.path, name="tiny-int4")).ref == record.ref


def test_a_quantized_version_is_deployed_as_a_model_and_never_beside_another(base, registry, tmp_path):
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.types import Digest

    register(registry, Registration(base, name="tiny"))
    for scheme in ("int4", "gguf-q8_0"):
        quantize(registry, "tiny", tmp_path / scheme, scheme=scheme, measure=None)
        register(registry, Registration(tmp_path / scheme, name=f"tiny-{scheme}"))
    config = with_model(parse_config({}), registry, "tiny-int4")
    assert (config.base_model, config.deployment.adapters) == ("tiny-int4", ())
    for deployed, other in (("tiny-int4", "tiny-gguf-q8_0"), ("tiny-gguf-q8_0", "tiny-int4")):
        digest = Digest(registry.resolve(deployed).registered.manifest)
        with pytest.raises(NotFoundError, match="registered as quantized"):
            resolve(other, registry.state, base_name=deployed, base_digest=digest)


def test_auto_takes_the_fastest_within_the_budget_and_marks_the_front(base, registry, tmp_path, three_schemes):
    made = quantize(registry, str(base), tmp_path / "out", measure=measured)
    assert made.scheme == "gguf-q8_0"  # as fast as int4 within 5 %, and smaller, since its embeddings are packed too
    rows = {row.scheme: row for row in made.tried}
    assert rows.keys() == SPEEDS.keys()
    assert [row.scheme for row in made.tried if row.is_chosen] == ["gguf-q8_0"]
    assert rows["gguf-q8_0"].is_on_front
    assert rows["int4"].is_on_front  # the fastest
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", "quantization.json", "training.json"}


def test_the_front_is_kept_and_each_version_has_its_own_measurements(base, registry, front, tmp_path):
    made = front
    assert made.scheme == "gguf-q8_0"
    assert set(made.folders) == {row.scheme for row in made.tried if row.is_on_front}
    assert {"gguf-q8_0", "int4"} <= set(made.folders)
    assert {path.name for path in made.folders["int4"].parent.iterdir()} == set(made.folders)
    for scheme, folder in made.folders.items():
        facts = register(registry, Registration(folder, name=f"tiny-{scheme}")).registered
        assert facts.kind is ModelKind.QUANTIZED
        assert (facts.parameters["scheme"], facts.parameters["tokens_per_s"]) == (scheme, SPEEDS[scheme])
        row = next(row for row in made.tried if row.scheme == scheme)
        assert facts.parameters["quality"] == row.quality
        assert facts.parameters["difference"] == row.difference
        assert len(facts.parameters["tried"]) == 3
    with pytest.raises(InputError, match="int4 alone has no Pareto front"):
        quantize(registry, str(base), tmp_path / "one", scheme="int4", keep="front", measure=None)


def test_the_command_registers_each_result_of_the_front_by_its_scheme(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workflow, "servable_here", lambda _device: [SCHEMES[name] for name in ("w8a8", "gguf-q8_0")])
    command = ["models", "quantize", str(base), "--keep", "front", "--budget", "quality>=0", "--no-speed"]
    command += ["--home", str(tmp_path / "home"), "--output", str(tmp_path / "out")]
    assert run([*command, "--name", "a" * 190]) == 2
    assert "can't be a model's name" in capsys.readouterr().err
    assert run([*command, "--name", "tiny"]) == 0
    printed = capsys.readouterr().out
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert kept
    assert all(f"Registered tiny-{name}:1.0.0 (quantized)" in printed for name in kept)


def test_what_is_on_the_front_and_misses_the_budget_is_not_kept(base, registry, front, tmp_path, three_schemes):
    best = max(front.tried, key=lambda row: row.quality)
    least = f"quality>={math.floor(best.quality * 1e9) / 1e9:.9f}"
    strict = quantize(registry, str(base), tmp_path / "out", budget=least, keep="front", measure=measured)
    assert set(strict.folders) == {best.scheme}
    assert len(front.folders) > 1


def test_a_scheme_that_fails_is_a_row_with_its_reason(base, registry, tmp_path, three_schemes):
    def broken(trial):
        if "gguf" in trial.model:
            raise DeploymentError("Engine gguf can't serve it.")
        return measured(trial)

    made = quantize(registry, str(base), tmp_path / "out", measure=broken)
    assert made.scheme == "int4"
    assert [(row.scheme, row.error) for row in made.tried if row.error] == [
        ("gguf-q8_0", "Engine gguf can't serve it.")
    ]
    load_model(tmp_path / "out", dtype="float32")


def test_without_one_that_meets_the_budget_the_best_is_told_and_nothing_written(
    base, registry, tmp_path, three_schemes
):
    with pytest.raises(InputError, match=r"No scheme meets the budget 'quality>=1'. The best is \S+: quality 0\.99"):
        quantize(registry, str(base), tmp_path / "out", budget="quality>=1", measure=measured)
    assert not [path for path in tmp_path.iterdir() if path.name != "home"]


def test_a_named_scheme_is_held_against_a_budget_too(base, registry, tmp_path):
    with pytest.raises(InputError, match=r"agreement 0\.\d+ \(wanted >=1\)"):
        quantize(registry, str(base), tmp_path / "out", scheme="int4", budget="agreement>=1", measure=None)


def test_texts_of_a_dataset_are_what_rounding_is_fitted_to(base, registry, tmp_path):
    rows = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    made = quantize(
        registry, str(base), tmp_path / "out", scheme="int4", calibration=tmp_path / "rows.jsonl", measure=None
    )
    assert made.num_samples == 3
    assert json.loads((tmp_path / "out" / "quantization.json").read_text())["calibration_samples"] == 3


def test_mistakes_are_told_before_anything_is_read(registry, tmp_path):
    (tmp_path / "there").mkdir()
    for options, error, told in (
        ({"scheme": "int5"}, InputError, "no quantization scheme 'int5'"),
        ({"scheme": "nf4", "calibration": tmp_path}, UnsupportedError, "nothing to calibrate"),
        ({"budget": "fast"}, InputError, "another form"),
    ):
        with pytest.raises(error, match=told):
            quantize(registry, "nothing-there", tmp_path / "out", **options)
    with pytest.raises(ConflictError, match="exists already"):
        quantize(registry, "nothing-there", tmp_path / "there", scheme="int4")


def test_the_command_prints_a_table_or_json_and_registers(base, tmp_path, capsys):
    home = ["--home", str(tmp_path / "home"), "--no-speed"]
    command = ["models", "quantize", str(base), "--scheme", "w8a8", *home]
    assert run([*command, "--output", str(tmp_path / "a"), "--name", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "quality" in printed
    assert "Registered tiny:1.0.0 (quantized)" in printed
    assert run([*command, "--output", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tried"][0]["difference"]["num_tokens"] > 300


def test_results_on_a_quantized_base_are_kept_apart_and_let_the_adapter_in(base, registry, tmp_path):
    from method_models import randomise, trained, wrapped

    from llamafarm_ray.config import MethodParameters, parse_config
    from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
    from llamafarm_ray.models.adapters import load_adapter, prove_adapter
    from llamafarm_ray.types import Digest
    from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
    from llamafarm_ray.workflows.evaluation.results import store_result

    register(registry, Registration(base, name="tiny"))
    quantize(registry, "tiny", tmp_path / "out", scheme="int4", measure=None)
    packed = register(registry, Registration(tmp_path / "out", name="tiny-int4")).registered
    method, model = wrapped(base, "lora", MethodParameters(r=4))
    randomise(model)
    (tmp_path / "lora").mkdir()
    method.save(model, trained(model), tmp_path / "lora")
    register(registry, Registration(tmp_path / "lora", name="bot", facts=stated(base_model="tiny")))
    found = EvaluatedModel.find(parse_config({"base_model": "tiny-int4"}), registry, "bot")
    assert (found.is_elsewhere, found.base_weights) == (True, packed.manifest)
    prove_adapter(tmp_path / "lora", found.base)
    ids = torch.tensor([[5, 40, 77]])
    with torch.no_grad():
        plain = load_model(found.base, dtype=torch.float32).eval()
        before = plain(input_ids=ids).logits
        assert not torch.allclose(load_adapter(plain, found.adapter).eval()(input_ids=ids).logits, before, atol=1e-3)
    served = {"base_name": "tiny-int4", "base_digest": Digest(packed.manifest)}
    with pytest.raises(NotFoundError, match="Evaluate it there first"):
        resolve("bot", registry.state, **served)
    store_result(registry, found, EvaluationResult("bot:1.0.0", "2026-11-28T00:00:00Z", {}))
    with pytest.raises(NotFoundError, match="Evaluate it there first"):  # nothing was measured
        resolve("bot", registry.state, **served)
    store_result(
        registry,
        found,
        EvaluationResult("bot:1.0.0", "2026-11-29T00:00:00Z", {"held_out": BenchmarkScores({"perplexity": 1.2})}),
    )
    assert resolve("bot", registry.state, **served).ref == "bot:1.0.0"
    assert list(registry.resolve("bot").metrics) == ["evaluated_on"]
    other = EvaluationResult("bot:1.0.0", "2026-11-29T00:00:00Z", {"mmlu": BenchmarkScores({"accuracy": 0.25})})
    store_result(registry, found, other)
    kept = registry.resolve("bot").evaluated_on[packed.manifest]["evaluation_results"]["benchmarks"]
    assert sorted(kept) == ["held_out", "mmlu"], "one benchmark leaves the others' results alone"
    with pytest.raises(InputError, match="was trained on: their digests differ"):
        EvaluatedModel.find(parse_config({"base_model": str(make_tiny_model(tmp_path / "x", seed=5))}), registry, "bot")
