"""Tiny models of several architectures, and what a method makes of them: everything but the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

ARCHITECTURES = ("llama", "qwen2", "mistral", "gpt2", "gpt_neox", "opt", "phi", "bert")
IDS = torch.arange(5, 25).reshape(2, 10)

_SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_MODEL = {
    "llama": ("LlamaConfig", {"intermediate_size": 48, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", {"intermediate_size": 48, "num_key_value_heads": 1}),
    "mistral": ("MistralConfig", {"intermediate_size": 48, "num_key_value_heads": 1, "sliding_window": None}),
    "gpt2": ("GPT2Config", {"n_positions": 64}),
    "gpt_neox": ("GPTNeoXConfig", {"intermediate_size": 48}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "phi": ("PhiConfig", {"intermediate_size": 48}),
    "bert": ("BertConfig", {"intermediate_size": 48}),
    "mixtral": ("MixtralConfig", {"intermediate_size": 48, "num_local_experts": 2, "num_key_value_heads": 1}),
}


def make_model(folder: Path, architecture: str = "llama", *, task: str = "causal-lm") -> Path:
    """Write a random two-layer model of that architecture, without a tokenizer, and return its folder."""
    import transformers

    name, sizes = _MODEL[architecture]
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, name)(**_SIZES, **sizes, **special)
    auto = transformers.AutoModelForCausalLM if task == "causal-lm" else transformers.AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config)
        for parameter in model.parameters():  # biases too: zeros would hide mistakes
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(folder))
    return folder


def wrapped(base: Path, name: str, parameters: Any = None, *, task: str = "causal-lm") -> tuple[Any, Any]:
    """The method, and the model it would train, after `check`."""
    from llamafarm_ray.config import MethodParameters
    from llamafarm_ray.models.loading import inspect_architecture
    from llamafarm_ray.training.methods import Precision, find_method

    method = find_method(name)(parameters or MethodParameters())
    method.check(inspect_architecture(base, task=task))
    torch.manual_seed(0)
    model = method.load(base, precision=Precision("fp32"), device=torch.device("cpu"), task=task)
    return method, method.wrap(model, base_model=base, task=task)


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The trained parameters by name, as a strategy gives them to `Method.save`."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def randomise(model: Any) -> None:
    """As if trained: adapters start as zero, and zero would prove nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval()


def output(model: Any, ids: torch.Tensor = IDS, **inputs: Any) -> torch.Tensor:
    """Logits, or the last layer's vectors where there is no head."""
    with torch.no_grad():
        result = model(input_ids=ids, **inputs)
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def reload(base: Path, folder: Path, *, task: str = "causal-lm", **options: Any) -> Any:
    """What plain transformers and peft make of it."""
    from peft import PeftModel
    from transformers import AutoModel, AutoModelForCausalLM

    import llamafarm_ray.models.bottleneck  # noqa: F401 - the two types that peft does not have

    auto = AutoModelForCausalLM if task == "causal-lm" else AutoModel
    model = auto.from_pretrained(str(base), dtype=torch.float32, **options)
    return PeftModel.from_pretrained(model, str(folder)).eval()
