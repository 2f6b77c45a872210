"""The features of adapters that not every engine serves.

vLLM puts low-rank updates beside linear layers and embeddings, and refuses the rest
(https://docs.vllm.ai/en/latest/features/lora/, ``PEFTHelper``). The transformers engine leaves an adapter to peft, and
keeps the base's weights as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import AdapterConfig

__all__ = ["check_served", "why_not_vllm"]

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
}
_VLLM_ASKS = ("r", "lora_alpha", "target_modules")
_PROMPT_METHODS = {"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "ADAPTION_PROMPT"}
_WITH_OTHER_MODELS = {"SHADOW", "XLORA"}
"""Methods whose configuration names further models, by their paths or ids, which peft would load."""
_OF_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")
"""Values of ``init_lora_weights`` with which peft subtracts the adapter's first weights from the base's."""


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
    if config.peft_type in _WITH_OTHER_MODELS:
        raise InputError(
            f"The adapter is of type {config.peft_type}, which no engine serves: its configuration names other models.",
            hint="Train one of the methods of `fine_tuning.method`, or an adapter that needs its base model alone.",
        )
    if config.is_lora and (init := _changed_base(values)):
        raise InputError(
            f"The adapter has init_lora_weights {init!r}: its weights stand on a base model that this initialisation "
            "changed, and on the base as it is they answer wrongly.",
            hint="Merge it (`llamafarm models merge`) and register the merged model; or convert it with "
            "save_pretrained's path_initial_model_for_weight_conversion; or, if its base has the changed weights, set "
            "init_lora_weights to true.",
        )
    if values.get("alora_invocation_tokens"):
        raise InputError(
            "The adapter is an activated LoRA (alora_invocation_tokens), which no engine serves.",
            hint="Train it without alora_invocation_tokens.",
        )


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


def _changed_base(values: Mapping[str, object]) -> str:
    init = values.get("init_lora_weights")
    return init if isinstance(init, str) and init.lower().startswith(_OF_CHANGED_BASE) else ""
