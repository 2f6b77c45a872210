"""A base model of two layers and LoRA adapters on it, as files alone: written by numpy, without torch."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["HIDDEN", "change_config", "change_tensors", "lora_tensors", "write_adapter", "write_base"]

HIDDEN, _INNER, _KV, _VOCABULARY, _LAYERS = 16, 32, 8, 24, 2
PREFIX = "base_model.model."
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (_KV, HIDDEN),
    "self_attn.v_proj": (_KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (_INNER, HIDDEN),
    "mlp.up_proj": (_INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, _INNER),
}
"""Outputs and inputs of a layer's modules, as Llama has them: two heads for queries, one for keys and values."""


def write_base(folder, *, seed=0, dtype="float32", hidden=HIDDEN, layers=_LAYERS, **config):
    """Write a base model into a folder that may be there, and return it."""
    draw, wider = np.random.default_rng(seed), hidden // HIDDEN
    tensors = {
        "model.embed_tokens.weight": draw.normal(size=(_VOCABULARY, hidden)),
        "model.norm.weight": np.ones(hidden),
    }
    for layer in range(layers):
        for module, (outputs, inputs) in SHAPES.items():
            weight = draw.normal(size=(outputs * wider, inputs * wider)) * 0.1
            tensors[f"model.layers.{layer}.{module}.weight"] = weight
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(hidden)
    tensors["lm_head.weight"] = draw.normal(size=(_VOCABULARY, hidden))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: one.astype(np.float32) for name, one in tensors.items()}, folder / "model.safetensors")
    said = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": dtype,
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": _INNER * wider,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def lora_tensors(*, seed=0, rank=4, targets=("q_proj", "v_proj")):
    """The tensors of an adapter, by their names."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(_LAYERS):
        for module, (outputs, inputs) in SHAPES.items():
            if module.rpartition(".")[2] in targets:
                name = f"{PREFIX}model.layers.{layer}.{module}"
                tensors[f"{name}.lora_A.weight"] = draw.normal(size=(rank, inputs)).astype(np.float32) * 0.1
                tensors[f"{name}.lora_B.weight"] = draw.normal(size=(outputs, rank)).astype(np.float32) * 0.1
    return tensors


def write_adapter(folder, base, *, seed=0, rank=4, targets=("q_proj", "v_proj"), tensors=None, **config):
    """Write an adapter on such a base into a folder that may be there, and return it; ``None`` leaves a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        **config,
    }
    values = {key: value for key, value in said.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file(tensors or lora_tensors(seed=seed, rank=rank, targets=targets), folder / "adapter_model.safetensors")
    return folder


def change_config(adapter, **config):
    """Change values of an adapter's configuration; ``None`` takes a key out."""
    path = adapter / "adapter_config.json"
    said = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def change_tensors(folder, change, name="adapter_model.safetensors"):
    """Write what a function makes of the tensors of a file, by default an adapter's, given to it by their names."""
    path = folder / name
    save_file(change(load_file(path)), path)
