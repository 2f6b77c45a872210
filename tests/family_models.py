"""Random models of two layers of each family that is converted, with one tokenizer."""

from __future__ import annotations

from pathlib import Path

from tiny_model import make_tiny_tokenizer

FAMILIES = (
    "llama",
    "llama with biases",
    "llama 3",
    "llama, linear positions",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3, long positions",
    "gpt2",
    "olmo2",
    "granite",
    "smollm3",
    "cohere",
    "stablelm",
    "stablelm, parallel",
    "phi",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "falcon",
    "falcon, groups of keys",
    "falcon, one norm",
    "gpt_neox",
    "gpt_neox, one after the other",
)
EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe")
"""Those of them that are mixtures of experts, for which ONNX has no operator."""
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
WHOLE_HEADS = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0 + n for n in range(8)],
    "short_factor": [1.0 + n / 10 for n in range(8)],
    "original_max_position_embeddings": 128,
}


def family_config(family, vocab_size=420, **changed):
    """The configuration of a tiny model; ``changed`` replaces its values."""
    import transformers as hf

    common = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    gemma = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}
    small = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": vocab_size}
    experts = {**common, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
    fused = {name: value for name, value in common.items() if name != "num_key_value_heads"}
    falcon = {name: value for name, value in fused.items() if name != "intermediate_size"}
    groups = {**falcon, "new_decoder_architecture": True, "num_kv_heads": 2}
    kinds = {
        "llama": (hf.LlamaConfig, common),
        "llama with biases": (hf.LlamaConfig, {**common, "attention_bias": True, "head_dim": 32}),
        "llama 3": (
            hf.LlamaConfig,
            {**common, "tie_word_embeddings": True, "rope_parameters": LLAMA3, "max_position_embeddings": 16384},
        ),
        "llama, linear positions": (
            hf.LlamaConfig,
            {**common, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        ),
        "mistral": (hf.MistralConfig, {**common, "sliding_window": None}),
        "qwen2": (hf.Qwen2Config, common),
        "qwen3": (hf.Qwen3Config, {**common, "head_dim": 32}),
        "gemma2": (hf.Gemma2Config, {**common, **gemma}),
        "gemma3": (hf.Gemma3TextConfig, {**common, **gemma, "num_hidden_layers": 7}),
        "phi3": (hf.Phi3Config, common),
        "phi3, long positions": (
            hf.Phi3Config,
            {**common, "rope_parameters": LONG, "original_max_position_embeddings": 128},
        ),
        "olmo2": (hf.Olmo2Config, common),
        "granite": (
            hf.GraniteConfig,
            {
                **common,
                "attention_multiplier": 0.2,
                "embedding_multiplier": 3,
                "residual_multiplier": 0.5,
                "logits_scaling": 2,
            },
        ),
        "smollm3": (hf.SmolLM3Config, {**common, "num_hidden_layers": 5}),
        "cohere": (hf.CohereConfig, {**common, "logit_scale": 0.25}),
        "stablelm": (hf.StableLmConfig, {**common, "use_qkv_bias": True}),
        "stablelm, parallel": (
            hf.StableLmConfig,
            {**common, "use_parallel_residual": True, "rope_parameters": WHOLE_HEADS},
        ),
        "phi": (hf.PhiConfig, common),
        "mixtral": (hf.MixtralConfig, {**common, "num_local_experts": 4, "num_experts_per_tok": 2}),
        "qwen2_moe": (hf.Qwen2MoeConfig, {**experts, "shared_expert_intermediate_size": 160}),
        "qwen3_moe": (hf.Qwen3MoeConfig, {**experts, "head_dim": 32, "norm_topk_prob": True}),
        "falcon": (hf.FalconConfig, {**falcon, "ffn_hidden_size": 128, "num_kv_heads": 1}),
        "falcon, groups of keys": (hf.FalconConfig, groups),
        "falcon, one norm": (hf.FalconConfig, {**groups, "num_ln_in_parallel_attn": 1}),
        "gpt_neox": (hf.GPTNeoXConfig, fused),
        "gpt_neox, one after the other": (hf.GPTNeoXConfig, {**fused, "use_parallel_residual": False}),
        "gpt2": (hf.GPT2Config, {**small, "bos_token_id": 0, "eos_token_id": 1}),
    }
    kind, values = kinds[family]
    return kind(**{**values, **changed})


def family_model(family, **changed):
    """A model whose weights are large enough that each of them matters."""
    import torch
    from transformers import AutoModelForCausalLM

    config = family_config(family, **changed)
    attention = {"attn_implementation": "eager"} if family == "gemma2" else {}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **attention).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def write_family_model(folder: Path, family, **changed) -> Path:
    """Write a model with the tests' tokenizer into a folder."""
    tokenizer = make_tiny_tokenizer()
    family_model(family, vocab_size=len(tokenizer), **changed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
