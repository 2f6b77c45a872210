"""Setup of a run: the settings that memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llamafarm_ray.config import Distributed, MethodParameters
from llamafarm_ray.training.decided import DecidedTraining

__all__ = ["DeviceKind", "Setup"]

DeviceKind = Literal["cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class Setup:
    """A run's choices.

    Args:
        num_workers: devices, one a worker.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        batch_size: sequences of a worker's micro-batch.
        max_length: tokens of each of them.
        gradient_accumulation_steps: micro-batches of an optimizer step.
        gradient_checkpointing: True if activations are computed twice.
        offload: place for ZeRO's offloaded state.
        tokens_per_batch: tokens that a micro-batch really has, padding included; ``batch_size * max_length`` unset.
        logit_positions: tokens of a micro-batch that are trained, so that logits are computed there; all unset.
        packed: True if sequences share a row, and none attends to another.
        masked: True if rows are padded to unequal lengths, so that attention gets a mask.
        fused_kernels: True if norms and gates are Liger's, which keep fewer activations.
    """

    method: str
    parameters: MethodParameters = field(default_factory=MethodParameters)
    strategy: str = "single"
    num_workers: int = 1
    precision: str = "bf16"
    batch_size: int = 4
    max_length: int = 2048
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    offload: str = "none"
    device: DeviceKind = "cuda"
    tokens_per_batch: int | None = None
    logit_positions: int | None = None
    packed: bool = False
    masked: bool = False
    fused_kernels: bool = False

    @classmethod
    def of_config(
        cls,
        *,
        method: str,
        parameters: MethodParameters,
        training: DecidedTraining,
        distributed: Distributed,
        strategy: str,
        num_workers: int,
        precision: str,
        max_length: int,
        device: DeviceKind,
        packed: bool = False,
        tokens_per_batch: int | None = None,
        logit_positions: int | None = None,
    ) -> Setup:
        """From a configuration in which ``auto`` has been decided.

        Args:
            parameters: ``fine_tuning.parameters``.
            training: ``fine_tuning.training``.
            distributed: ``fine_tuning.distributed``, for ``offload``.
            precision: the number format chosen.
            max_length: the longest row, in tokens.
            packed: True if rows are packed.
            tokens_per_batch: see the class.
            logit_positions: see the class.
        """
        return cls(
            method=method,
            parameters=parameters,
            strategy=strategy,
            num_workers=num_workers,
            precision=precision,
            batch_size=training.batch_size,
            max_length=max_length,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            gradient_checkpointing=training.gradient_checkpointing,
            offload=distributed.offload,
            device=device,
            tokens_per_batch=tokens_per_batch,
            logit_positions=logit_positions,
            packed=packed,
            masked=not packed and training.batch_size > 1,
        )

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.tokens_per_batch or self.batch_size * self.max_length

    @property
    def positions(self) -> int:
        """Tokens of a micro-batch whose logits are computed."""
        return min(self.tokens, self.tokens if self.logit_positions is None else self.logit_positions)

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's stage; 0 without."""
        return int(self.strategy[-1]) if self.strategy.startswith("deepspeed_zero") else 0

    @property
    def is_low(self) -> bool:
        """True if matrix products are in 16 bits."""
        return self.precision != "fp32"
