"""QLoRA: LoRA over a base model held in 4 bits (https://arxiv.org/abs/2305.14314), on GPUs and on CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from transformers import BitsAndBytesConfig

from llamafarm_ray.models.loading import Task, load_model
from llamafarm_ray.training.methods.base import Precision
from llamafarm_ray.training.methods.lora import LoraMethod

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["QloraMethod"]


class QloraMethod(LoraMethod):
    """Saves what LoRA saves: the adapter goes onto the unquantised base model as well."""

    name: ClassVar[str] = "qlora"

    @property
    def not_shardable(self) -> str:
        """See `Method.not_shardable`."""
        return "4-bit weights are not split between workers"

    def load(
        self, folder: Path, *, precision: Precision, device: torch.device, task: Task = "causal-lm"
    ) -> PreTrainedModel:
        """See `Method.load`: linear layers but the output head in 4 bits, the rest in fp32."""
        from peft import prepare_model_for_kbit_training  # see PeftMethod.wrap

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.parameters.quantization_type,
            bnb_4bit_use_double_quant=self.parameters.double_quantization,
            bnb_4bit_compute_dtype=precision.compute_dtype,
        )
        model = load_model(
            folder,
            dtype=precision.compute_dtype,
            task=task,
            quantization_config=quantization,
            device_map={"": str(device)},
        )
        for module in model.modules():
            # On CPUs with AVX512-BF16, bitsandbytes 0.50 packs a layer's weights anew at its first evaluation, for a
            # kernel without a backward pass: training that goes on after a validation would get wrong gradients.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        # Checkpointing is switched on in one place for every method, so not here.
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
