"""How a model is trained: the method, its parameters, the loop, the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from llamafarm_ray.config.base import Mistake, Section, Unused, as_tuple, section

__all__ = [
    "Distributed",
    "FineTuning",
    "LearningRateSchedule",
    "Method",
    "MethodParameters",
    "Objective",
    "Offload",
    "Precision",
    "Strategy",
    "Training",
]

Method = Literal["auto", "lora", "qlora", "full", "adapter", "prefix_tuning", "hybrid_lora_adapter"]
Objective = Literal["sft", "dpo", "kto", "pretraining", "contrastive"]
Strategy = Literal["auto", "single", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"]
Offload = Literal["none", "cpu", "nvme"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
LearningRateSchedule = Literal["linear", "cosine", "constant"]

_LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")
_QUANTIZATION_KEYS = ("bits", "double_quantization", "quantization_type")
_METHODS_WITH_LORA = ("auto", "lora", "qlora", "hybrid_lora_adapter")
_METHODS_WITH_QUANTIZATION = ("auto", "qlora")
_MAX_RANK = 512  # the largest that vLLM serves


class MethodParameters(Section):
    """What the low-rank and quantized methods are set to; other methods have no parameters."""

    r: int = Field(default=16, ge=1, le=_MAX_RANK, description="Rank of the low-rank matrices (LoRA methods).")
    lora_alpha: int = Field(
        default=32, ge=1, le=65536, description="Scale of the low-rank update: its weight is lora_alpha/r."
    )
    lora_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the low-rank input dropped while training."
    )
    target_modules: Annotated[
        Literal["auto", "all-linear"] | tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(as_tuple)
    ] = Field(
        default="auto",
        description="Layers that get a low-rank update: 'auto' (the library's choice for the architecture), "
        "'all-linear', or a list of module names such as [q_proj, v_proj].",
    )
    use_rslora: bool = Field(default=False, description="Scale by lora_alpha/sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(default=False, description="Train magnitude and direction apart (weight-decomposed LoRA).")
    bits: Literal[4] = Field(default=4, description="Bits per base weight while training (qlora).")
    double_quantization: bool = Field(default=True, description="Quantize the quantization constants too (qlora).")
    quantization_type: Literal["nf4", "fp4"] = Field(
        default="nf4", description="Number format of the base weights (qlora)."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """An empty list of layers trains nothing."""
        if self.target_modules == ():
            yield Mistake(("target_modules",), "is an empty list, so nothing would be trained; name layers, or 'auto'.")


class Training(Section):
    """The training loop."""

    epochs: float = Field(
        default=3.0, gt=0, le=10000, description="Passes over the training split; 0.5 is half of one."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop after this many optimizer steps, if `epochs` has not ended by then."
    )
    batch_size: int = Field(default=4, ge=1, le=65536, description="Examples per worker and forward pass.")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=65536, description="Forward passes summed before one optimizer step."
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="Highest learning rate of the schedule.")
    lr_scheduler: LearningRateSchedule = Field(
        default="cosine", description="How the learning rate goes on after the warm-up: down to 0, or constant."
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="Optimizer steps until the highest learning rate is reached, instead of `warmup_ratio`.",
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, le=1, description="Share of all optimizer steps until the highest learning rate is reached."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are scaled down to this norm; 0 leaves them alone."
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        le=1048576,
        description="Longest example in tokens; unset: dataset.preprocessing.max_length.",
    )
    precision: Precision = Field(
        default="auto", description="Number format of the computation; 'auto': bf16 where it is fast."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice to hold fewer in memory."
    )
    packing: Literal["auto"] | bool = Field(
        default="auto", description="Put several examples in one sequence; 'auto': where the engine can and it pays."
    )
    log_every_s: float = Field(default=1.0, ge=0, le=3600, description="Seconds between two lines of progress.")
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps between two checkpoints; unset: one at the end of each epoch."
    )
    keep_checkpoints: int = Field(default=2, ge=1, le=1000, description="How many of the latest checkpoints are kept.")

    def unused(self) -> Mapping[str, Unused]:
        """A warm-up is counted in one unit."""
        if self.warmup_steps is None:
            return {}
        return {"warmup_ratio": Unused("warmup_steps", "is set beside {1}, which says the same; keep one of them.")}


class Distributed(Section):
    """How many workers train together, and what they share."""

    strategy: Strategy = Field(
        default="auto",
        description="How workers share the model; 'auto': single for one worker, ddp or ZeRO as memory needs.",
    )
    workers: int | None = Field(
        default=None, ge=1, le=65536, description="Training processes in all; one GPU each, if any."
    )
    gpus: int | None = Field(default=None, ge=1, le=1024, description="GPUs per node.")
    nodes: int | None = Field(default=None, ge=1, le=65536, description="Machines the workers are spread over.")
    offload: Offload = Field(
        default="none", description="Where DeepSpeed keeps optimizer state and weights that don't fit."
    )

    @property
    def num_workers(self) -> int | None:
        """Training processes in all, if the configuration says: ``workers``, or ``gpus`` times ``nodes``."""
        if self.workers is not None:
            return self.workers
        if self.gpus is not None:
            return self.gpus * (self.nodes or 1)
        return self.nodes

    def mistakes(self) -> Iterator[Mistake]:
        """The numbers must agree, and the strategy must be able to do what is asked."""
        num_workers, num_nodes = self.num_workers, self.nodes or 1
        if self.workers is not None and self.gpus is not None and self.workers != self.gpus * num_nodes:
            yield Mistake(
                ("workers", "gpus", "nodes"),
                f"is {self.workers}, but {{1}} x {{2}} is {self.gpus} x {num_nodes} = {self.gpus * num_nodes}; "
                "there is one worker a GPU.",
            )
        elif self.workers is not None and self.workers % num_nodes:
            yield Mistake(("workers", "nodes"), f"is {self.workers}, which {{1}} = {num_nodes} does not divide.")
        if self.strategy == "single" and num_workers not in (None, 1):
            key = "workers" if self.workers is not None else "gpus" if self.gpus is not None else "nodes"
            yield Mistake(("strategy", key), f"is single, but {{1}} asks for {num_workers} workers; use ddp.")
        if self.offload != "none" and self.strategy not in ("auto", "deepspeed_zero2", "deepspeed_zero3"):
            yield Mistake(
                ("offload", "strategy"), f"needs {{1}} deepspeed_zero2 or deepspeed_zero3, not {self.strategy}."
            )
        if self.offload == "nvme" and self.strategy == "deepspeed_zero2":
            yield Mistake(("offload", "strategy"), "can be nvme with {1} deepspeed_zero3 only.")


class FineTuning(Section):
    """What is trained and how."""

    method: Method = Field(
        default="auto",
        description="Which weights are trained; 'auto' chooses by the model's size and the memory found.",
    )
    objective: Objective = Field(
        default="sft", description="What the training minimises; sft: the answers' negative log-likelihood."
    )
    parameters: MethodParameters = section(MethodParameters, "Parameters of the method.")
    training: Training = section(Training, "The training loop.")
    distributed: Distributed = section(Distributed, "Workers and what they share.")

    def unused(self) -> Mapping[str, Unused]:
        """Each method has its own parameters."""
        keys: tuple[str, ...] = ()
        if self.method not in _METHODS_WITH_LORA:
            keys += _LORA_KEYS
        if self.method not in _METHODS_WITH_QUANTIZATION:
            keys += _QUANTIZATION_KEYS
        reason = Unused(
            "method", f"has no effect with {{1}} {self.method}; remove it, or choose a method that uses it."
        )
        return {f"parameters.{key}": reason for key in keys}
