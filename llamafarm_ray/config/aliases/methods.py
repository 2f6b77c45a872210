"""Aliases of the method, the objective and the low-rank parameters."""

from __future__ import annotations

from typing import Final

from llamafarm_ray.config.aliases.alias import NOTHING, Alias, AliasRefusalError, Undecided
from llamafarm_ray.config.aliases.names import (
    AXOLOTL,
    FACTORY,
    HF,
    LUDWIG,
    METHOD,
    OBJECTIVE,
    PARAMETERS,
    PEFT,
    TORCHTUNE,
    UNSLOTH,
)

__all__ = ["LORA", "METHODS"]

_NOT_4_BIT = Undecided(
    "rules out 4-bit weights, and not more: set fine_tuning.method to lora or full",
    ("lora", "full", "adapter", "prefix_tuning", "hybrid_lora_adapter"),
)
_NO_8_BIT = "8-bit base weights are not available; use 4 bits (method qlora), or none (method lora)"


def _layer_names(value: object) -> object:
    """LLaMA-Factory writes lists of layers as one text with commas, and ``all`` for every linear layer."""
    if not isinstance(value, str):
        return value
    if value in ("all", "all-linear", "auto"):
        return "all-linear" if value == "all" else value
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise AliasRefusalError(f"must be 'all' or layer names with commas between them, not {value[:80]!r}")
    return names


_LAYERS_SCHEMA: Final = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}}]}

METHODS = (
    Alias(name="method", target=METHOD, tools="various"),
    Alias(
        name="adapter",
        target=METHOD,
        tools=AXOLOTL,
        values={"lora": "lora", "qlora": "qlora", None: "full"},
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="type",
        target=METHOD,
        within=(PARAMETERS,),
        tools=LUDWIG,
        values={"lora": "lora"},
        refused={"adalora": "only lora is available", "ia3": "only lora is available"},
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="finetuning_type",
        target=METHOD,
        tools=FACTORY,
        values={"lora": "lora", "full": "full"},
        refused={
            "freeze": "training some layers and freezing the others is not available; use lora or full",
            "oft": "orthogonal fine-tuning is not available; use lora or full",
        },
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="use_peft",
        target=METHOD,
        tools="TRL",
        values={True: "lora", False: "full"},
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="load_in_4bit",
        target=METHOD,
        tools=f"{AXOLOTL}, {UNSLOTH}, TRL",
        values={True: "qlora", False: _NOT_4_BIT},
    ),
    Alias(
        name="load_in_8bit",
        target=METHOD,
        tools=f"{AXOLOTL}, TRL",
        values={False: NOTHING},
        refused={True: _NO_8_BIT},
    ),
    Alias(name="quantization_bit", target=METHOD, tools=FACTORY, values={4: "qlora"}, refused={8: _NO_8_BIT}),
    Alias(name="objective", target=OBJECTIVE, tools="various"),
    Alias(
        name="stage",
        target=OBJECTIVE,
        tools=FACTORY,
        values={"sft": "sft", "dpo": "dpo", "kto": "kto", "pt": "pretraining"},
        refused={"rm": "reward models are not trained here", "ppo": "online reinforcement learning is not available"},
    ),
    Alias(name="rl", target=OBJECTIVE, tools=AXOLOTL, values={"dpo": "dpo", "kto": "kto"}),
)

LORA = (
    Alias(name="r", target=f"{PARAMETERS}.r", tools=UNSLOTH),
    Alias(name="lora_r", target=f"{PARAMETERS}.r", tools=f"{AXOLOTL}, TRL"),
    Alias(
        name="lora_rank",
        target=f"{PARAMETERS}.r",
        tools=f"{FACTORY}, {TORCHTUNE}",
    ),
    Alias(name="rank", target=f"{PARAMETERS}.r", within=(PARAMETERS,), tools="various"),
    Alias(name="lora_alpha", target=f"{PARAMETERS}.lora_alpha", tools=f"{AXOLOTL}, {FACTORY}, {PEFT}, {TORCHTUNE}"),
    Alias(name="alpha", target=f"{PARAMETERS}.lora_alpha", within=(PARAMETERS,), tools=LUDWIG),
    Alias(name="lora_dropout", target=f"{PARAMETERS}.lora_dropout", tools=f"{AXOLOTL}, {FACTORY}, {PEFT}"),
    Alias(name="dropout", target=f"{PARAMETERS}.lora_dropout", within=(PARAMETERS,), tools=LUDWIG),
    Alias(name="target_modules", target=f"{PARAMETERS}.target_modules", tools=f"PEFT, {UNSLOTH}"),
    Alias(
        name="lora_target_modules",
        target=f"{PARAMETERS}.target_modules",
        tools=f"{AXOLOTL}, TRL",
    ),
    Alias(
        name="lora_target",
        target=f"{PARAMETERS}.target_modules",
        tools=FACTORY,
        convert=_layer_names,
        accepts=_LAYERS_SCHEMA,
    ),
    Alias(
        name="lora_target_linear",
        target=f"{PARAMETERS}.target_modules",
        tools=AXOLOTL,
        values={True: "all-linear", False: NOTHING},
    ),
    Alias(name="lora_attn_modules", target=f"{PARAMETERS}.target_modules", tools=TORCHTUNE),
    Alias(name="use_rslora", target=f"{PARAMETERS}.use_rslora", tools=f"{PEFT}, {FACTORY}, {UNSLOTH}"),
    Alias(name="use_dora", target=f"{PARAMETERS}.use_dora", tools=f"{PEFT}, {FACTORY}"),
    Alias(name="double_quantization", target=f"{PARAMETERS}.double_quantization", tools=FACTORY),
    Alias(name="use_bnb_nested_quant", target=f"{PARAMETERS}.double_quantization", tools="TRL"),
    Alias(name="bnb_4bit_use_double_quant", target=f"{PARAMETERS}.double_quantization", tools="transformers"),
    Alias(name="quantization_type", target=f"{PARAMETERS}.quantization_type", tools=FACTORY),
    Alias(name="bnb_4bit_quant_type", target=f"{PARAMETERS}.quantization_type", tools=HF),
)
