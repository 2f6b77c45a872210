"""The features of adapters that not every engine serves.

vLLM puts low-rank updates beside linear layers and embeddings, and refuses the rest
(https://docs.vllm.ai/en/latest/features/lora/, ``PEFTHelper``). The transformers engine leaves an adapter to peft, and
keeps the base's weights as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import AdapterConfig

__all__ = ["check_served", "why_not_merged", "why_not_vllm"]

_VLLM_TYPE = "LORA"
_VLLM_LACKS = {
    "use_dora": "DoRA",
    "lora_bias": "a bias beside the update (lora_bias)",
    "modules_to_save": "whole modules of its own (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "updates of parameters (target_parameters)",
    "layer_replication": "replicated layers (layer_replication)",
    "use_bdlora": "block-diagonal matrices (use_bdlora)",
    "use_qalora": "QALoRA",
    "velora_config": "VeLoRA's tensors (velora_config)",
}
_VLLM_ASKS = ("r", "lora_alpha", "target_modules")
_PROMPT_METHODS = {"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "ADAPTION_PROMPT", "CARTRIDGE"}
_NOT_SERVED = {
    "SHADOW": "its configuration names other models",
    "XLORA": "its configuration names other models",
    "POLY": "each request would have to name one of its tasks",
    "SHIRA": "it holds the positions of weights as integers, which no proof covers",
    "SUPERTUNING": "it holds the positions of weights as integers, which no proof covers",
    "FROD": "it holds the positions of weights as integers, which no proof covers",
}
"""Methods that no engine serves, with the reason. peft would load the other models by their paths or ids."""
_NOT_SERVED_LORA = {
    "arrow_config": "routes between other adapters (arrow_config)",
    "monteclora_config": "draws its weights anew (monteclora_config)",
    "megatron_config": "is made for layers of Megatron (megatron_config)",
}
_OF_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` with which peft subtracts the adapter's first weights from the base's."""
_OF_LOST_BASE = ("corda", "lora_ga")
"""Those of them that need more than the base to be repeated: gradients or activations of the training's data."""
_UNMERGED = {
    "BOTTLENECK": "bottleneck adapters are networks of their own, with a non-linearity that no weight can stand for",
    "HYBRID_LORA_ADAPTER": "its bottleneck adapters are networks of their own, with a non-linearity that no weight can "
    "stand for",
    "PREFIX_TUNING": "a prefix is a piece of every sequence, not of the weights",
}
_UNMERGED_LORA = {
    "alora_invocation_tokens": "an activated LoRA applies to the tokens after its invocation only",
    "arrow_config": "it routes between other adapters (arrow_config)",
    "layer_replication": "its copies of a layer share that layer's weights (layer_replication)",
    "megatron_config": "it is made for layers of Megatron (megatron_config)",
}


_MERGE_HINT = "Merge it (`llamafarm models merge`) and register the merged model."


def check_served(config: AdapterConfig) -> None:
    """Check that an engine serves an adapter of this configuration.

    Raises:
        InputError: none does; the hint says what to do.
    """
    values = config.values
    if config.peft_type in _PROMPT_METHODS:
        raise InputError(
            f"The adapter is of type {config.peft_type}, which no engine serves.",
            hint="Of methods that put something before the prompt, prefix_tuning can be served.",
        )
    if reason := _NOT_SERVED.get(config.peft_type):
        raise InputError(
            f"The adapter is of type {config.peft_type}, which no engine serves: {reason}.",
            hint="Train one of the methods of `fine_tuning.method`, or an adapter that needs its base model alone.",
        )
    if config.peft_type == "VBLORA" and values.get("save_only_topk_weights"):
        raise InputError(
            "The adapter was saved with save_only_topk_weights, which no engine serves: it holds indices instead of "
            "weights.",
            hint="Set save_only_topk_weights to false, and save it again.",
        )
    if config.is_lora:
        _check_lora(values)


def _check_lora(values: Mapping[str, object]) -> None:
    if init := _changed_base(values):
        raise InputError(
            f"The adapter has init_lora_weights {init!r}: its weights stand on a base model that this initialisation "
            "changed, and on the base as it is they answer wrongly.",
            hint=("" if init.lower().startswith(_OF_LOST_BASE) else f"{_MERGE_HINT} ")
            + "save_pretrained's path_initial_model_for_weight_conversion converts it; if its base has the changed "
            "weights, set init_lora_weights to true.",
        )
    if values.get("alora_invocation_tokens"):
        raise InputError(
            "The adapter is an activated LoRA (alora_invocation_tokens), which no engine serves.",
            hint="Train it without alora_invocation_tokens.",
        )
    if values.get("kasa_config"):
        raise InputError(
            "The adapter is of KaSA (kasa_config), which cuts the base model's weights: on the base as it is it "
            "answers wrongly.",
            hint=_MERGE_HINT,
        )
    for key, does in _NOT_SERVED_LORA.items():
        if values.get(key):
            raise InputError(f"The adapter {does}, which no engine serves.", hint=f"Train it without {key}.")


def why_not_vllm(config: AdapterConfig) -> str:
    """Return the feature of an adapter that vLLM can't serve; empty if there is none."""
    values = config.values
    if config.peft_type != _VLLM_TYPE:
        return f"the type {config.peft_type}"
    for key, words in _VLLM_LACKS.items():
        if values.get(key):
            return words
    if (bias := values.get("bias", "none")) != "none":
        return f"biases of its own (bias: {bias})"
    for key in _VLLM_ASKS:
        if values.get(key) is None:
            return f"a configuration without {key}"
    return ""


def why_not_merged(config: AdapterConfig) -> str:
    """Return the reason that an adapter can't be added to the base's weights; empty if it can."""
    kind, values = config.peft_type, config.values
    if kind != "LORA":
        return _UNMERGED.get(kind, f"it is of type {kind}, and only updates of LoRA are added to weights")
    for key, reason in _UNMERGED_LORA.items():
        if values.get(key):
            return reason
    init = _changed_base(values)
    if init.lower().startswith(_OF_LOST_BASE):
        return f"its base was changed by init_lora_weights {init!r} with data that is not saved"
    return ""


def _changed_base(values: Mapping[str, object]) -> str:
    init = values.get("init_lora_weights")
    return init if isinstance(init, str) and init.lower().startswith(_OF_CHANGED_BASE) else ""
