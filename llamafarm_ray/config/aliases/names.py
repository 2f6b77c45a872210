"""Names of tools and of sections in the table of aliases."""

from __future__ import annotations

__all__ = [
    "AXOLOTL",
    "DISTRIBUTED",
    "FACTORY",
    "HF",
    "LUDWIG",
    "METHOD",
    "OBJECTIVE",
    "OWN",
    "PARAMETERS",
    "PEFT",
    "RAY",
    "TORCHTUNE",
    "TRAINING",
    "UNSLOTH",
    "VLLM",
]

OWN = "earlier configurations"
AXOLOTL = "Axolotl"
FACTORY = "LLaMA-Factory"
HF = "transformers, TRL"
PEFT = "PEFT, TRL"
TORCHTUNE = "torchtune"
UNSLOTH = "Unsloth"
LUDWIG = "Ludwig"
RAY = "Ray"
VLLM = "vLLM"

METHOD = "fine_tuning.method"
OBJECTIVE = "fine_tuning.objective"
PARAMETERS = "fine_tuning.parameters"
TRAINING = "fine_tuning.training"
DISTRIBUTED = "fine_tuning.distributed"
