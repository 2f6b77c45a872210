"""GGUF files of the tests' tiny models, written by llama.cpp's own package."""

from __future__ import annotations

import json
from pathlib import Path

_HEADS = 2


def write_gguf(base: Path, path: Path, *, kind: str = "F32", **facts: int) -> Path:
    """Write a tiny Llama's weights and tokenizer as ``path``, quantised to ``kind`` where the shapes allow it."""
    import gguf
    from safetensors.numpy import load_file

    path.parent.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    for name, value in facts.items():
        writer.add_uint32(f"llama.{name}", value)
    _add_tokenizer(writer, base, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in load_file(base / "model.safetensors").items():
        values = _permuted(tensor) if name.endswith(("q_proj.weight", "k_proj.weight")) else tensor
        chosen = quantised if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values.astype("float32"), chosen)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=chosen)
    return _finished(writer, path)


def write_lora(path: Path, base: Path, *, seed: int = 0, scale: float = 0.5) -> dict[str, object]:
    """Write a random update of every layer's ``down_proj`` as ``path``; the change of each weight, by its name."""
    import gguf
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    width, inner, rank = config["hidden_size"], config["intermediate_size"], 4
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    changes = {}
    for layer in range(config["num_hidden_layers"]):
        down = random.normal(size=(rank, inner)).astype("float32") * scale
        up = random.normal(size=(width, rank)).astype("float32") * scale
        writer.add_tensor(f"blk.{layer}.ffn_down.weight.lora_a", down)
        writer.add_tensor(f"blk.{layer}.ffn_down.weight.lora_b", up)
        changes[f"model.layers.{layer}.mlp.down_proj.weight"] = up @ down
    _finished(writer, path)
    return changes


def _add_tokenizer(writer, base, config):
    import gguf

    tokenizer = json.loads((base / "tokenizer.json").read_text())
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    types = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([types[token not in special] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((base / "chat_template.jinja").read_text())


def _permuted(weight):
    """llama.cpp turns pairs of neighbours where transformers turns halves."""
    return weight.reshape(_HEADS, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _finished(writer, path):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
