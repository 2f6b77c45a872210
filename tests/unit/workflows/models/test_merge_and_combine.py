"""Merged and combined models answer as they should, and know what they were made from."""

import json
import shutil

import pytest
import torch
from method_models import output, randomise, trained, wrapped
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_adapters import change_tensors
from tiny_model import make_tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import ConflictError, InputError, IntegrityError, UnsupportedError, UserError
from llamafarm_ray.models.adapters import load_adapter
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.lineage import trace
from llamafarm_ray.storage import Location, Manifest
from llamafarm_ray.training.methods import merging
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.models.combine import combine
from llamafarm_ray.workflows.models.merge import merge
from llamafarm_ray.workflows.versions.register import Registration, register


def make_adapter(base, folder, name="lora", seed=1, record=None, **parameters):
    """A trained adapter's folder."""
    method, model = wrapped(base, name, MethodParameters(**parameters))
    randomise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.3 * seed).add_(0.02 * seed)
    folder.mkdir()
    method.save(model, trained(model), folder)
    if record is not None:
        (folder / "training.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A base and adapters on it: a and b of one rank, c of another."""
    folder = tmp_path_factory.mktemp("shared")
    base = make_tiny_model(folder / "base")
    digest = Manifest.of_folder(base).digest
    lineage = {"base_model": str(base), "base_digest": digest, "dataset": "qa", "parameters": {"r": 4}}
    make_adapter(base, folder / "a", r=4, record={"method": "qlora", "metrics": {"x": 1}, "lineage": lineage})
    make_adapter(base, folder / "b", seed=2, r=4, use_rslora=True)
    make_adapter(base, folder / "c", seed=3, r=2, target_modules=("q_proj", "v_proj"), rank_pattern={"q_proj": 3})
    return folder


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


def logits(base, adapter=None):
    model = load_model(base, dtype=torch.float32)
    return output(load_adapter(model, adapter).eval() if adapter else model.eval())


def updates(base, adapter):
    """What an adapter adds to each layer's weight."""
    model = load_adapter(load_model(base, dtype=torch.float32), adapter)
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and len(module.lora_A)
    }


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_merged_model_answers_as_the_adapter_on_its_base(shared, registry, tmp_path, name):
    merged = merge(registry, str(shared / name), tmp_path / "out")
    assert merged.check.dtype == "fp32"
    assert merged.check.relative_difference < merged.check.tolerance == 1e-4
    found = logits(tmp_path / "out")
    assert torch.allclose(found, logits(shared / "base", shared / name), atol=1e-4)
    assert not torch.allclose(found, logits(shared / "base"), atol=1e-2)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (shared / "base" / "tokenizer.json").read_bytes()
    assert not list(tmp_path.glob(".out*"))


def test_a_dora_adapter_merges_too(shared, registry, tmp_path):
    make_adapter(shared / "base", tmp_path / "dora", r=4, use_dora=True)
    assert merge(registry, str(tmp_path / "dora"), tmp_path / "out").check.relative_difference < 1e-4


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("target", "is_tied"), [("lm_head", False), ("embed_tokens", False), ("q_proj", True)])
def test_a_head_that_is_tied_to_the_embeddings_is_untied_where_one_of_them_is_changed(
    registry, tmp_path, target, is_tied
):
    base = make_tiny_model(tmp_path / "base")
    LlamaForCausalLM(LlamaConfig.from_pretrained(base, tie_word_embeddings=True)).save_pretrained(base)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(target_modules=[target], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    merge(registry, str(tmp_path / "adapter"), tmp_path / "out", base_model=str(base))
    assert torch.allclose(logits(tmp_path / "out"), logits(base, tmp_path / "adapter"), atol=1e-4)
    assert LlamaConfig.from_pretrained(tmp_path / "out").tie_word_embeddings is is_tied
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) is not is_tied


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_rows_of_tied_embeddings_that_an_adapter_learned_change_the_head_too(registry, tmp_path):
    base = make_tiny_model(tmp_path / "base")
    LlamaForCausalLM(LlamaConfig.from_pretrained(base, tie_word_embeddings=True)).save_pretrained(base)
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, trainable_token_indices=[1, 2, 3])
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(1.0)
    model.save_pretrained(tmp_path / "adapter")
    merge(registry, str(tmp_path / "adapter"), tmp_path / "out", base_model=str(base))
    plain = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    assert torch.allclose(logits(tmp_path / "out"), output(plain), atol=1e-4)


def test_the_format_is_the_bases_own_or_the_one_asked_for(shared, registry, tmp_path):
    merged = merge(registry, str(shared / "a"), tmp_path / "out", dtype="bf16")
    assert merged.check.dtype == "bf16"
    assert merged.check.relative_difference < 1e-4 < merged.check.rounded_difference < 0.2
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(UserError, match="no format 'int8'"):
        merge(registry, str(shared / "a"), tmp_path / "other", dtype="int8")
    assert not (tmp_path / "other").exists()


def test_a_qlora_adapter_is_merged_into_the_unquantised_base_and_says_so(shared, registry, tmp_path):
    assert "4-bit" in merge(registry, str(shared / "a"), tmp_path / "a").notes[0]
    assert merge(registry, str(shared / "b"), tmp_path / "b").notes == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("adapter", "non-linearity"), ("hybrid_lora_adapter", "non-linearity"), ("prefix_tuning", "piece")],
)
def test_what_is_no_change_of_weights_is_not_merged(shared, registry, tmp_path, name, reason):
    make_adapter(shared / "base", tmp_path / name, name)
    with pytest.raises(UnsupportedError, match=f"can't be merged: .*{reason}"):
        merge(registry, str(tmp_path / name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_not_merged_into(shared, tmp_path):
    config = json.loads((shared / "base" / "config.json").read_text())
    (tmp_path / "base").mkdir()
    quantised = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(UnsupportedError, match=r"is quantised.*Merge into the unquantised model"):
        merging.merge_adapter(tmp_path / "base", shared / "a", tmp_path)


def test_a_merged_model_that_answers_differently_is_never_left_behind(shared, registry, tmp_path, monkeypatch):
    real = merging.load_model

    def damaged(folder, **options):
        if folder != shared / "base":
            weights = load_file(folder / "model.safetensors")
            name = "model.layers.0.mlp.down_proj.weight"
            save_file({**weights, name: weights[name] * 1.5}, folder / "model.safetensors", metadata={"format": "pt"})
        return real(folder, **options)

    monkeypatch.setattr(merging, "load_model", damaged)
    with pytest.raises(IntegrityError, match=r"The written model .* logits of up to .* differ by up to"):
        merge(registry, str(shared / "a"), tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == list(tmp_path.glob(".out*")) == []


def test_an_output_is_replaced_on_request_only(shared, registry, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with pytest.raises(ConflictError, match="exists already"):
        merge(registry, str(shared / "a"), tmp_path / "out")
    merge(registry, str(shared / "a"), tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "old").exists()
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_another_base_than_the_one_trained_on_is_refused(shared, registry, tmp_path):
    other = make_tiny_model(tmp_path / "other", seed=7)
    with pytest.raises(InputError, match=r"is not the base .* trained on: their digests differ"):
        merge(registry, str(shared / "a"), tmp_path / "out", base_model=str(other))


def test_a_merged_model_is_registered_with_its_descent(shared, registry, tmp_path):
    adapter = register(registry, Registration(shared / "a", name="bot"))
    merged = merge(registry, "bot", tmp_path / "out")
    assert merged.adapter == adapter.ref
    facts = register(registry, Registration(tmp_path / "out", name="bot-merged")).registered
    assert (facts.kind, facts.method, facts.dataset) == (ModelKind.MERGED, "qlora", "qa")
    assert facts.base_digest == Manifest.of_folder(shared / "base").digest
    assert facts.derived_from == (adapter.registered.manifest,)
    graph = trace(registry.state, "bot-merged", "down")
    assert ("model:bot-merged:1.0.0", f"model:{adapter.ref}", "is derived from") in {
        (edge.source, edge.target, edge.relation) for edge in graph.edges
    }


def test_cat_is_the_weighted_sum_whatever_the_ranks(shared, registry, tmp_path):
    names, weights = ["a", "b", "c"], [0.7, -0.3, 0.5]
    combined = combine(registry, [str(shared / name) for name in names], tmp_path / "out", weights=weights)
    assert combined.check.error < 1e-4
    assert combined.check.r == 4 + 4 + 3
    found = updates(shared / "base", tmp_path / "out")
    parts = [updates(shared / "base", shared / name) for name in names]
    for layer, update in found.items():
        expected = sum(w * part[layer] for part, w in zip(parts, weights, strict=True) if layer in part)
        assert torch.allclose(update, expected, atol=1e-5)
    # Merged, it changes the answers as that sum does.
    assert merge(registry, str(tmp_path / "out"), tmp_path / "merged").check.relative_difference < 1e-4


@pytest.mark.parametrize(
    ("method", "density"),
    [
        ("svd", None),
        ("linear", None),
        ("ties", 0.5),
        ("dare_linear", 0.5),
        ("dare_ties", 0.5),
        ("magnitude_prune", 0.5),
    ],
)
def test_the_other_ways_reload_in_plain_peft_and_are_the_same_each_time(shared, registry, tmp_path, method, density):
    written = []
    for name in ("one", "two"):
        torch.rand(1)  # what happened before must not matter
        combine(registry, [str(shared / "a"), str(shared / "b")], tmp_path / name, method=method, density=density)
        written.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert written[0] == written[1]
    assert torch.isfinite(logits(shared / "base", tmp_path / "one")).all()
    record = json.loads((tmp_path / "one" / "training.json").read_text())
    assert record["lineage"]["parameters"]["combination"] == method


def test_svd_is_exact_at_the_sum_of_the_ranks_and_close_below(shared, registry, tmp_path):
    pair = [str(shared / "a"), str(shared / "b")]
    exact = combine(registry, pair, tmp_path / "8", method="svd", rank=8).check
    close = combine(registry, pair, tmp_path / "2", method="svd", rank=2).check
    assert (exact.r, close.r) == (8, 2)
    assert exact.error < 1e-4 < close.error < 1


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("a", {}, "Only one adapter"),
        ("ab", {"weights": [1.0]}, "1 weights for 2 adapters"),
        ("ab", {"weights": [0.0, 0.0]}, "All weights are 0"),
        ("ab", {"method": "tise"}, r"called 'tise'.*Did you mean ties"),
        ("ab", {"method": "ties"}, "needs a density"),
        ("ab", {"method": "cat", "density": 0.5}, "has no density"),
        ("ab", {"method": "ties", "density": 1.5}, "density is 1.5"),
        ("ac", {"method": "linear"}, r"they have 4, 2, and ranks that differ by layer.*Use cat or svd"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(shared, registry, tmp_path, names, options, message):
    with pytest.raises(UserError, match=message):
        combine(registry, [str(shared / name) for name in names], tmp_path / "out", **options)


def test_adapters_of_other_kinds_or_bases_are_not_combined(shared, registry, tmp_path):
    make_adapter(shared / "base", tmp_path / "bottleneck", "adapter")
    make_adapter(shared / "base", tmp_path / "dora", r=4, use_dora=True)
    other = make_tiny_model(tmp_path / "other", seed=7)
    make_adapter(other, tmp_path / "elsewhere", r=4)
    for name, message in (("bottleneck", "is BOTTLENECK"), ("dora", "uses DoRA"), ("elsewhere", "on another base")):
        with pytest.raises(UserError, match=message):
            combine(registry, [str(shared / "a"), str(tmp_path / name)], tmp_path / "out")


@pytest.mark.parametrize("order", [("upper", "a"), ("a", "upper")])
def test_adapters_of_other_blocks_are_combined_whole(shared, registry, tmp_path, order):
    upper = make_adapter(shared / "base", tmp_path / "upper", seed=2, r=4, layers_to_transform=(1,))
    parts = [upper if name == "upper" else shared / name for name in order]
    combined = combine(registry, [str(part) for part in parts], tmp_path / "out", weights=[0.7, 0.5])
    assert combined.check.error < 1e-4
    found, (first, second) = (
        updates(shared / "base", tmp_path / "out"),
        (updates(shared / "base", one) for one in parts),
    )
    assert found.keys() == first.keys() | second.keys()
    for layer, update in found.items():
        expected = 0.7 * first.get(layer, torch.zeros(())) + 0.5 * second.get(layer, torch.zeros(()))
        assert torch.allclose(update, expected, atol=1e-5)


@pytest.mark.parametrize("order", [("a", "broken"), ("broken", "a")])
def test_an_adapter_without_some_of_its_tensors_is_not_combined(shared, registry, tmp_path, order):
    broken = shutil.copytree(shared / "b", tmp_path / "broken")
    change_tensors(broken, lambda them: {name: one for name, one in them.items() if "layers.1" not in name})
    places = {"a": shared / "a", "broken": broken}
    with pytest.raises(InputError, match=r"broken' does not fit its base model: .*missing"):
        combine(registry, [str(places[name]) for name in order], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_print_what_they_found_and_register(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLAMAFARM_PRINCIPAL", "ann")
    monkeypatch.delenv("LLAMAFARM_TOKEN", raising=False)
    pair = [str(shared / "a"), str(shared / "b")]
    arguments = ["models", "combine", *pair, "--weights", "0.7,0.3", "--output", str(tmp_path / "both")]
    assert run([*arguments, "--register", "both", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["weights"], found["check"]["r"]) == ("both:1.0.0", [0.7, 0.3], 8)
    merging_arguments = ["models", "merge", "--model", "both", "--output", str(tmp_path / "merged")]
    assert run([*merging_arguments, "--register", "both-merged"]) == 0
    out = capsys.readouterr().out
    assert "logits differ by at most" in out
    assert "Registered both-merged:1.0.0 (merged)" in out
    assert run([*arguments[:4], "--weights", "1,x", "--output", str(tmp_path / "none")]) == 2
    assert "no list of numbers" in capsys.readouterr().err
