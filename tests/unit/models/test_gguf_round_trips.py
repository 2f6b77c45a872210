"""A model written to GGUF and read back is the same model, and one that the format can't hold is refused."""

import pytest
import torch
from family_models import FAMILIES, family_config, family_model
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.errors import InputError, UnsupportedError, UserError
from llamafarm_ray.models.convert import gguf_model
from llamafarm_ray.models.convert.gguf_file import write_gguf_model
from llamafarm_ray.models.convert.gguf_model import gguf_config, load_gguf_model
from llamafarm_ray.models.convert.gguf_tokenizer import load_gguf_tokenizer
from llamafarm_ray.models.convert.precisions import gguf_precision
from llamafarm_ray.storage.formats.gguf import read_gguf

TEXTS = ("The capital of France is Paris.", "How many legs? 1234 and 56!", "<|im_start|>user\nA farm<|im_end|>")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def written(folder, model, tokenizer, precision="fp32"):
    path = folder / "model.gguf"
    write_gguf_model(model, tokenizer, path, gguf_precision(precision), name="tiny")
    return path


@torch.no_grad()
def logits(model, length=200):
    ids = torch.arange(3, 3 + length)[None] % 400
    return model(input_ids=ids).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_tokens_are_the_same_after_a_round_trip(tmp_path, tokenizer, family):
    model = family_model(family, vocab_size=len(tokenizer))
    path = written(tmp_path, model, tokenizer)
    read = load_gguf_model(path, dtype=torch.float32)
    assert torch.allclose(logits(read), logits(model), atol=1e-4)
    assert read.config.tie_word_embeddings == model.config.tie_word_embeddings
    found = load_gguf_tokenizer(read_gguf(path))
    assert [found(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert found.decode(found(TEXTS[0])["input_ids"]) == TEXTS[0]
    assert found.chat_template == tokenizer.chat_template
    assert (found.bos_token, found.eos_token, found.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "qwen3_moe"])
def test_the_reader_of_transformers_finds_the_same_model(tmp_path, tokenizer, family):
    from transformers import AutoModelForCausalLM

    model = family_model(family, vocab_size=len(tokenizer))
    written(tmp_path, model, tokenizer)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    assert torch.allclose(logits(read), logits(model), atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changed", "told"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
        ("gemma2", {"query_pre_attn_scalar": 99}, "query_pre_attn_scalar '99'"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types"),
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob 'True'"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob 'False'"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers '\[0\]'"),
        ("falcon", {"alibi": True}, "alibi 'True'"),
        ("falcon", {"parallel_attn": False}, "parallel_attn 'False'"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias 'False'"),
    ],
)
def test_a_property_that_llama_cpp_computes_otherwise_is_refused_by_name(tmp_path, tokenizer, family, changed, told):
    model = family_model(family, vocab_size=len(tokenizer), **changed)
    with pytest.raises(UnsupportedError, match=told):
        written(tmp_path, model, tokenizer)


def test_positions_that_are_scaled_in_another_way_are_refused(tmp_path, tokenizer):
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = family_model("llama", vocab_size=len(tokenizer), rope_parameters=scaled)
    with pytest.raises(UnsupportedError, match="'dynamic'"):
        written(tmp_path, model, tokenizer)


def test_another_family_is_refused_by_name(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, OPTConfig

    config = OPTConfig(vocab_size=420, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16)
    with pytest.raises(UnsupportedError, match="type 'opt' are not converted"):
        written(tmp_path, AutoModelForCausalLM.from_config(config), tokenizer)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, tokenizer):
    with pytest.raises(InputError, match="embeddings have 300 rows"):
        written(tmp_path, family_model("llama", vocab_size=300), tokenizer)


def test_embeddings_may_have_more_rows_than_there_are_tokens(tmp_path, tokenizer):
    model = family_model("llama", vocab_size=len(tokenizer) + 28)
    path = written(tmp_path, model, tokenizer)
    assert torch.allclose(logits(load_gguf_model(path, dtype=torch.float32)), logits(model), atol=1e-4)
    assert len(load_gguf_tokenizer(read_gguf(path))) == len(tokenizer)


def test_a_sliding_window_shortens_the_context_that_llama_cpp_may_use(tmp_path, tokenizer):
    path = written(tmp_path, family_model("mistral", vocab_size=len(tokenizer), sliding_window=32), tokenizer)
    assert read_gguf(path).of_architecture("context_length") == 32


def changed_file(path, name, value):
    from gguf import GGUFReader

    reader = GGUFReader(path, "r+")
    reader.get_field(name).parts[-1][0] = value
    reader.data.flush()
    return path


def test_a_layer_too_few_or_too_many_is_refused(tmp_path, tokenizer):
    path = written(tmp_path, family_model("llama", vocab_size=len(tokenizer)), tokenizer)
    with pytest.raises(InputError, match=r"9 belong to no part of the model: blk\.1\."):
        load_gguf_model(changed_file(path, "llama.block_count", 1), dtype=torch.float32)
    with pytest.raises(InputError, match=r"9 are missing: blk\.2\."):
        load_gguf_model(changed_file(path, "llama.block_count", 3), dtype=torch.float32)


def test_a_tensor_of_another_shape_is_refused(tmp_path, tokenizer):
    path = written(tmp_path, family_model("llama", vocab_size=len(tokenizer)), tokenizer)
    with pytest.raises(InputError, match=r"has the shape \[128, 64\], and by the file's facts it is \[256, 64\]"):
        load_gguf_model(changed_file(path, "llama.feed_forward_length", 256), dtype=torch.float32)


def test_an_unknown_split_of_texts_is_refused(tmp_path, tokenizer):
    path = written(tmp_path, family_model("llama", vocab_size=len(tokenizer)), tokenizer)
    header = read_gguf(path)
    header.facts["tokenizer.ggml.pre"] = "unheard-of"
    with pytest.raises(UnsupportedError, match="'unheard-of'"):
        load_gguf_tokenizer(header)


def test_widths_of_heads_that_are_no_quotient_are_kept(tmp_path, tokenizer):
    config = family_config("qwen3")
    assert config.head_dim != config.hidden_size // config.num_attention_heads
    path = written(tmp_path, family_model("qwen3", vocab_size=len(tokenizer)), tokenizer)
    assert load_gguf_model(path, dtype=torch.float32).config.head_dim == config.head_dim


@pytest.mark.parametrize(
    ("fact", "value", "told"),
    [
        ("llama.expert_shared_count", 8, "llama.expert_shared_count = 8, which is not converted"),
        ("llama.attention.value_length", 99, "value_length = 99"),
        ("llama.rope.scaling.type", "dynamic", "'dynamic'"),
        ("llama.attention.head_count_kv", [2, 4], "layers differ"),
    ],
)
def test_a_fact_that_would_be_left_out_is_refused(tmp_path, tokenizer, fact, value, told):
    header = read_gguf(written(tmp_path, family_model("llama", vocab_size=len(tokenizer)), tokenizer))
    header.facts[fact] = value
    with pytest.raises(UserError, match=told):
        gguf_config(header, lambda _: None, shown="tiny")


def tensors(path):
    from gguf import GGUFReader

    return {one.name: one for one in GGUFReader(path).tensors}


def test_experts_lie_in_one_tensor_for_each_of_their_matrices(tmp_path, tokenizer):
    model = family_model("mixtral", vocab_size=len(tokenizer))
    path = written(tmp_path, model, tokenizer, "q8_0")
    header, found = read_gguf(path), tensors(path)
    assert (header.architecture, header.of_architecture("expert_count")) == ("llama", 4)
    assert header.of_architecture("expert_used_count") == 2
    assert header.tensors["blk.1.ffn_gate_exps.weight"] == (64, 128, 4)
    assert header.tensors["blk.1.ffn_down_exps.weight"] == (128, 64, 4)
    kinds = [found[f"blk.0.{name}.weight"].tensor_type.name for name in ("ffn_gate_inp", "ffn_up_exps")]
    assert kinds == ["F32", "Q8_0"]  # a router that is rounded sends tokens elsewhere
    found = tensors(written(tmp_path, model, tokenizer))
    experts = model.model.layers[1].mlp.experts.gate_up_proj.detach()
    for number in range(4):
        gate, up = (torch.tensor(found[f"blk.1.ffn_{name}_exps.weight"].data[number]) for name in ("gate", "up"))
        assert torch.equal(torch.cat((gate, up)), experts[number])


def test_experts_of_their_own_width_and_the_shared_one_are_described(tmp_path, tokenizer):
    header = read_gguf(written(tmp_path, family_model("qwen2_moe", vocab_size=len(tokenizer)), tokenizer))
    said = {name: header.of_architecture(f"expert_{name}") for name in ("count", "used_count", "feed_forward_length")}
    assert said == {"count": 4, "used_count": 2, "feed_forward_length": 96}
    assert header.of_architecture("expert_shared_feed_forward_length") == 160
    assert header.tensors["blk.0.ffn_gate_shexp.weight"] == (64, 160)
    assert header.tensors["blk.0.ffn_gate_inp_shexp.weight"] == (64, 1)


def test_the_gate_of_a_shared_expert_may_be_a_list(tmp_path, tokenizer, monkeypatch):
    model = family_model("qwen2_moe", vocab_size=len(tokenizer))
    path = written(tmp_path, model, tokenizer)
    real = gguf_model.read_tensor

    def flat(path, entry):
        return real(path, entry).flatten() if "gate_inp_shexp" in entry.name else real(path, entry)

    monkeypatch.setattr(gguf_model, "read_tensor", flat)
    assert torch.allclose(logits(load_gguf_model(path, dtype=torch.float32)), logits(model), atol=1e-4)


@pytest.mark.parametrize(
    ("family", "module", "keys"),
    [
        ("falcon", "transformer.h.1.self_attention.query_key_value", 1),
        ("falcon, groups of keys", "transformer.h.1.self_attention.query_key_value", 2),
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value", 4),
    ],
)
def test_all_queries_come_before_all_keys(tmp_path, tokenizer, family, module, keys):
    model = family_model(family, vocab_size=len(tokenizer))
    found = torch.tensor(tensors(written(tmp_path, model, tokenizer))["blk.1.attn_qkv.weight"].data)
    heads = model.get_submodule(module).weight.detach().split(16)  # of 16 rows: per key its queries, it, its value
    per_key = 4 // keys
    order = [group * (per_key + 2) + place for group in range(keys) for place in range(per_key)]
    order += [group * (per_key + 2) + per_key + place for place in (0, 1) for group in range(keys)]
    assert torch.equal(found, torch.cat([heads[index] for index in order]))


def test_falcons_of_both_kinds_are_told_apart(tmp_path, tokenizer):
    read = {}
    for family in ("falcon", "falcon, groups of keys", "falcon, one norm"):
        path = written(tmp_path, family_model(family, vocab_size=len(tokenizer)), tokenizer)
        config = load_gguf_model(path, dtype=torch.float32).config
        read[family] = (config.new_decoder_architecture, config.num_kv_heads, config.num_ln_in_parallel_attn)
    assert read == {
        "falcon": (False, 1, None),
        "falcon, groups of keys": (True, 2, 2),
        "falcon, one norm": (True, 2, 1),
    }
