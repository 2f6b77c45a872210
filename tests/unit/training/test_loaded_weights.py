"""A model is what lies in its folder: nothing is made up, left out, or computed another way."""

import ast
import json
from pathlib import Path

import pytest
import torch
from method_models import make_model, output
from safetensors.torch import load_file, save_file
from tiny_model import make_tiny_model

import llamafarm_ray
from llamafarm_ray.config import MethodParameters, parse_config
from llamafarm_ray.errors import InputError, UserError
from llamafarm_ray.models.header_check import check_headers
from llamafarm_ray.models.loading import bare_model, inspect_architecture, load_model
from llamafarm_ray.training.methods import Precision, find_method
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.plan.planning import check_inputs

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def changed(folder, change, **config):
    """Change a folder's tensors and its config.json, and return it."""
    path = folder / "model.safetensors"
    save_file({name: one.clone() for name, one in change(load_file(path)).items()}, path, metadata={"format": "pt"})
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **config}))
    return folder


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("down_proj"), r"2 are missing: model\.layers\.0\.mlp\.down_proj\.weight, model\.layers\.1"),
        (without("lm_head"), r"1 are missing: lm_head\.weight\."),
        (
            lambda tensors: {f"x.{name}": tensor for name, tensor in tensors.items()},
            r"21 are missing: lm_head\.weight, .* and 18 more; 21 belong to no part of the model: x\.lm_head\.weight",
        ),
        (
            lambda tensors: {**tensors, "model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)},
            r"1 belong to no part of the model: model\.layers\.7\.mlp\.up_proj\.weight",
        ),
        (
            lambda tensors: {**tensors, "model.norm.weight": torch.ones(7)},
            r"1 have another shape: model\.norm\.weight \(\[7\] instead of \[32\]\)",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(tmp_path, change, message):
    folder = changed(make_model(tmp_path), change)
    with pytest.raises(InputError, match=message):
        load_model(folder, dtype=torch.float32)
    method = find_method("qlora")(MethodParameters())
    with pytest.raises(InputError, match=message):
        method.load(folder, precision=Precision("fp32"), device=torch.device("cpu"))


def test_what_no_part_of_a_model_needs_may_be_missing_or_left_over(tmp_path):
    tied = changed(make_model(tmp_path / "tied"), without("lm_head"), tie_word_embeddings=True)
    load_model(tied, dtype=torch.float32)
    load_model(make_model(tmp_path / "head"), dtype=torch.float32, task="embedding")
    old = lambda tensors: {**tensors, "transformer.h.0.attn.masked_bias": torch.ones(1)}  # noqa: E731
    load_model(changed(make_model(tmp_path / "gpt2", "gpt2"), old), dtype=torch.float32)
    load_model(make_model(tmp_path / "bert", "bert"), dtype=torch.float32, task="embedding")  # no pooler, but a head
    extra = lambda tensors: {**tensors, "model.layers.7.norm": torch.ones(2)}  # noqa: E731
    folder = changed(make_model(tmp_path / "llama"), extra)
    with pytest.raises(InputError, match=r"1 belong to no part of the model: model\.layers\.7"):
        load_model(folder, dtype=torch.float32, task="embedding")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, r"are missing: model\.layers\.10\..* have another shape"),  # its sizes are left out
        ({"model_type": "llama", **SIZES, "num_hidden_layers": 40}, r"\d{3} are missing: model\.layers\.10\."),
        ({"model_type": "llama", **SIZES, "vocab_size": 10**9}, r"have another shape: lm_head\.weight"),
    ],
)
def test_nothing_is_allocated_for_a_config_that_describes_more_than_the_weights(tmp_path, monkeypatch, config, message):
    folder = make_model(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("AutoModel", "AutoModelForCausalLM"):
        monkeypatch.setattr(f"transformers.{name}.from_pretrained", lambda *_, **__: pytest.fail("it allocates"))
    for task in ("causal-lm", "embedding"):
        with pytest.raises(InputError, match=message if task == "causal-lm" else "that its config.json describes"):
            load_model(folder, dtype=torch.float32, task=task)


def test_tensors_that_transformers_renames_are_not_missing(tmp_path):
    renamed = lambda tensors: {  # noqa: E731
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    load_model(changed(make_model(tmp_path, "bert"), renamed), dtype=torch.float32, task="embedding")


def test_packed_weights_are_held_against_the_modules(tmp_path):
    def packed(tensors):
        return {
            name.replace("proj.weight", "proj.weight_packed"): tensor[:1].clone() if "proj" in name else tensor
            for name, tensor in tensors.items()
        }

    folder = changed(make_model(tmp_path), packed)
    check_headers(bare_model(folder), folder, is_packed=True, without_head=False)
    changed(folder, lambda tensors: tensors, num_hidden_layers=30)
    with pytest.raises(InputError, match=r"\d{3} are missing: model\.layers\.10\.[^;]*$"):
        check_headers(bare_model(folder), folder, is_packed=True, without_head=False)


def bart(folder):
    from transformers import BartConfig, BartForConditionalGeneration

    layers = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes = {"vocab_size": 64, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    BartForConditionalGeneration(BartConfig(**sizes, **layers)).save_pretrained(folder)
    return folder


def test_a_model_with_an_encoder_does_not_learn_to_write(tmp_path):
    for name, make in (("bert", make_model), ("bart", lambda folder, _: bart(folder))):
        folder = make(make_tiny_model(tmp_path / name), name)  # for its tokenizer
        config = parse_config({"base_model": str(folder)})
        with pytest.raises(UserError, match="has an encoder, whose tokens see those after them"):
            check_inputs(config, find_objective("sft"), folder, has_validation=False)
    with pytest.raises(InputError, match="are missing"):
        load_model(tmp_path / "bart", dtype=torch.float32)


@pytest.mark.parametrize(
    ("architecture", "is_causal"),
    [("llama", True), ("gpt2", True), ("gpt_neox", True), ("bert", False), ("bloom", True), ("roformer", False)],
)
def test_decoders_are_told_from_encoders(tmp_path, architecture, is_causal):
    from transformers import AutoConfig

    AutoConfig.for_model(architecture, **SIZES).save_pretrained(tmp_path)
    found = inspect_architecture(tmp_path)
    assert found.is_causal is is_causal
    if architecture == "bloom":
        with pytest.raises(UserError, match="no attention layers of a kind"):
            find_method("prefix_tuning")(MethodParameters()).check(found)


def test_full_fine_tuning_saves_the_buffers_that_a_model_is_loaded_with(tmp_path):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    heads = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    }
    config = DeepseekV3Config(
        **SIZES, **heads, **experts, intermediate_size=48, moe_intermediate_size=16, num_key_value_heads=2
    )
    torch.manual_seed(0)
    made = DeepseekV3ForCausalLM(config)
    made.model.layers[1].mlp.gate.e_score_correction_bias.copy_(torch.tensor([5.0, -5.0, 3.0, 0.0]))
    made.save_pretrained(tmp_path / "base")
    method = find_method("full")(MethodParameters())
    model = method.load(tmp_path / "base", precision=Precision("fp32"), device=torch.device("cpu")).eval()
    expected = output(model)
    (tmp_path / "saved").mkdir()
    method.save(model, {name: one.detach() for name, one in model.named_parameters()}, tmp_path / "saved")
    assert torch.equal(output(load_model(tmp_path / "saved", dtype=torch.float32).eval()), expected)


def test_a_model_that_caps_its_attention_scores_is_trained_with_capped_scores(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**SIZES, intermediate_size=48, num_key_value_heads=1, head_dim=16, attn_logit_softcapping=0.5)
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    capped, uncapped = (
        Gemma2ForCausalLM.from_pretrained(tmp_path, attn_implementation=name).eval() for name in ("eager", "sdpa")
    )
    found = output(load_model(tmp_path, dtype=torch.float32).eval())
    assert torch.equal(found, output(capped))
    assert not torch.allclose(found, output(uncapped), atol=1e-3)


def test_no_code_of_a_folder_is_run_and_nothing_is_asked(tmp_path, monkeypatch):
    folder = changed(
        make_tiny_model(tmp_path),
        lambda tensors: tensors,
        model_type="own",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks"))
    with pytest.raises(InputError, match="no causal language model"):
        inspect_architecture(folder)
    assert not (tmp_path / "ran").exists()


def test_everything_that_opens_a_model_refuses_code_of_its_own():
    for path in Path(llamafarm_ray.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if ast.unparse(node.func.value) in {"PeftConfig", "PeftModel"}:  # tensors and a JSON file
                continue
            if node.func.attr in {"from_pretrained", "from_config"}:
                given = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
