"""Training of a model: the method, its parameters, the loop, the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Section, Unused, as_tuple, section
from llamafarm_ray.config.sections.methods import BOTTLENECK_METHODS, LOW_RANK_METHODS, Method, Strategy
from llamafarm_ray.config.sections.objectives import ContrastiveSettings, DpoSettings, KtoSettings
from llamafarm_ray.config.values import FrozenMapping

__all__ = [
    "CHANGEABLE_MIDWAY",
    "Distributed",
    "FineTuning",
    "Goal",
    "Intent",
    "LearningRateSchedule",
    "Method",
    "MethodParameters",
    "Objective",
    "Offload",
    "Precision",
    "Strategy",
    "Training",
]

Goal = Literal["balanced", "quality", "many_tasks"]
Objective = Literal["sft", "dpo", "kto", "pretraining", "contrastive"]
Offload = Literal["none", "cpu", "nvme"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
LearningRateSchedule = Literal["linear", "cosine", "constant"]

CHANGEABLE_MIDWAY: Final = (
    "learning_rate",
    "lr_scheduler",
    "warmup_steps",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
)
"""Keys of ``fine_tuning.training`` that may change between two steps of a run: neither the weights' shapes depend on
them, nor which rows a step trains on."""

_MAX_RANK = 512  # the largest that vLLM serves
_KEYS_OF_METHODS = (
    # parameters, and the methods that have them; auto may choose any of lora, qlora and full
    (
        (
            "r",
            "lora_alpha",
            "lora_dropout",
            "target_modules",
            "layers_to_transform",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
            "use_dora",
        ),
        ("auto", *LOW_RANK_METHODS),
    ),
    (("bits", "double_quantization", "quantization_type"), ("auto", "qlora")),
    (
        ("adapter_type", "reduction_factor", "bottleneck_dim", "non_linearity", "adapter_dropout", "adapter_scale"),
        BOTTLENECK_METHODS,
    ),
    (("num_virtual_tokens", "prefix_projection", "encoder_hidden_size"), ("prefix_tuning",)),
)


class MethodParameters(Section):
    """Parameters of the methods: each has its own, and full none."""

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
        description="Layers that get a low-rank update: 'auto' and 'all-linear' (every linear layer but the output "
        "head that can be adapted), or a list of module names such as [q_proj, v_proj].",
    )
    layers_to_transform: Annotated[
        Literal["auto", "all"] | tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(as_tuple)
    ] = Field(
        default="auto",
        description="Blocks of the model that get a low-rank update: 'all', or a list of numbers from 0 such as "
        "[10, 11]. 'auto' is all; on a CPU, for questions that the base model wrote, the upper two thirds.",
    )
    rank_pattern: Annotated[Mapping[str, Annotated[int, Field(ge=1, le=_MAX_RANK)]], AfterValidator(FrozenMapping)] = (
        Field(
            default_factory=FrozenMapping,
            description="Ranks that differ from r: module name or regular expression, and the rank, {down_proj: 32}.",
        )
    )
    alpha_pattern: Annotated[Mapping[str, Annotated[int, Field(ge=1, le=65536)]], AfterValidator(FrozenMapping)] = (
        Field(
            default_factory=FrozenMapping,
            description="Scales that differ from lora_alpha: module name or regular expression, and the scale.",
        )
    )
    use_rslora: bool = Field(default=False, description="Scale by lora_alpha/sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(default=False, description="Train magnitude and direction apart (weight-decomposed LoRA).")
    bits: Literal[4] = Field(default=4, description="Bits per base weight while training (qlora).")
    double_quantization: bool = Field(default=True, description="Quantize the quantization constants too (qlora).")
    quantization_type: Literal["nf4", "fp4"] = Field(
        default="nf4", description="Number format of the base weights (qlora)."
    )
    adapter_type: Literal["houlsby", "pfeiffer"] = Field(
        default="houlsby",
        description="Place of bottleneck adapters: houlsby after attention and feed-forward network of every block, "
        "pfeiffer after the latter only (adapter methods).",
    )
    reduction_factor: int = Field(
        default=16, ge=1, le=65536, description="The model's width divided by an adapter's (adapter methods)."
    )
    bottleneck_dim: int | None = Field(
        default=None, ge=1, le=65536, description="An adapter's width, instead of `reduction_factor`."
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = Field(
        default="relu", description="The function between an adapter's two projections (adapter methods)."
    )
    adapter_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of an adapter's input dropped while training (adapter methods)."
    )
    adapter_scale: float = Field(
        default=1.0, gt=0, le=1000, description="Factor of an adapter's output (adapter methods)."
    )
    num_virtual_tokens: int = Field(
        default=20, ge=1, le=4096, description="Length of the trained prefix in tokens (prefix_tuning)."
    )
    prefix_projection: bool = Field(
        default=False, description="Train the prefix through a small network, which is dropped afterwards."
    )
    encoder_hidden_size: int | None = Field(
        default=None, ge=1, le=65536, description="Width of that network; unset: the model's."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """An empty list of layers trains nothing."""
        if self.target_modules == ():
            yield Mistake(("target_modules",), "is an empty list, so nothing would be trained; name layers, or 'auto'.")
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            yield Mistake(("encoder_hidden_size", "prefix_projection"), "has no effect unless {1} is true.")

    def unused(self) -> Mapping[str, Unused]:
        """An adapter's width is said in one way."""
        if self.bottleneck_dim is None:
            return {}
        return {"reduction_factor": Unused("bottleneck_dim", "is set beside {1}, which says the same; keep one.")}


class Intent(Section):
    """Purpose of the result, which `method: auto` takes into account."""

    goal: Goal = Field(
        default="balanced",
        description="Main goal: quality for its cost, quality at any cost, or one base model for many tasks.",
    )
    task_switching: Literal["frequent", "static"] | None = Field(
        default=None,
        description="Order of requests (goal many_tasks): for another task each time, or for the same few.",
    )
    production: bool = Field(
        default=False, description="Plan to deploy it, so that the way to serve it is printed as well."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """One task is not switched."""
        if self.task_switching is not None and self.goal != "many_tasks":
            yield Mistake(("task_switching", "goal"), f"has no effect with {{1}} {self.goal}; it is for many_tasks.")


class Training(Section):
    """The training loop."""

    epochs: Literal["auto"] | Annotated[float, Field(gt=0, le=10000)] = Field(
        default="auto",
        description="Passes over the training split; 0.5 is half of one. 'auto': 3, divided by the dataset's passes.",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps of the run, however many epochs that is; unset: `epochs` says."
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=65536)] = Field(
        default="auto", description="Examples per worker and forward pass; 'auto': 4, and 2 in a run of few examples."
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, le=65536, description="Forward passes summed before one optimizer step."
    )
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        default="auto",
        description="Highest learning rate of the schedule; 'auto': by method, objective and the base model's width.",
    )
    lr_scheduler: LearningRateSchedule = Field(
        default="cosine", description="Course of the learning rate after the warm-up: down to 0, or constant."
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
    padding_free: Literal["auto"] | bool = Field(
        default="auto",
        description="Put the examples of a forward pass one after another, without padding and unseen by each other; "
        "'auto': where model and method can.",
    )
    compile: bool = Field(
        default=False, description="Compile the model with torch.compile; the first steps take minutes."
    )
    fused_kernels: Literal["auto"] | bool = Field(
        default="auto", description="Use Liger's fused kernels; 'auto': on GPUs where liger-kernel is installed."
    )
    log_every_s: float = Field(default=1.0, ge=0, le=3600, description="Seconds between two lines of progress.")
    evaluate_every_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps between two validations; unset: one at the end of each epoch."
    )
    keep_best: bool = Field(
        default=False, description="Save the weights of the lowest validation loss, not those of the last step."
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        le=10000,
        description="End the run after so many validations in a row without a lower loss than the best.",
    )
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps between two checkpoints; unset: one at the end of each epoch."
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, le=1000, description="Number of the latest checkpoints to keep; the best one is kept too."
    )
    checkpoint_location: str | None = Field(
        default=None,
        min_length=1,
        description="Folder or fsspec URI (s3://bucket/runs) for checkpoints; unset: beside the output.",
    )

    def unused(self) -> Mapping[str, Unused]:
        """A warm-up is counted in one unit."""
        if self.warmup_steps is None:
            return {}
        return {"warmup_ratio": Unused("warmup_steps", "is set beside {1}, which says the same; keep one of them.")}


_Workers = Annotated[int, Field(ge=1, le=65536)]


class Distributed(Section):
    """Number of workers, and the division of the work between them."""

    strategy: Strategy = Field(
        default="auto",
        description="Way in which workers share the model; 'auto': single for one worker, ddp or ZeRO as memory needs.",
    )
    workers: Annotated[_Workers | tuple[_Workers, _Workers] | None, BeforeValidator(as_tuple)] = Field(
        default=None,
        description="Training processes in all, one GPU each, if any; [min, max] takes what the cluster has.",
    )
    gpus: int | None = Field(default=None, ge=1, le=1024, description="GPUs per node.")
    nodes: int | None = Field(default=None, ge=1, le=65536, description="Machines the workers are spread over.")
    cpus_per_worker: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="CPUs that each worker reserves and, without a GPU, computes on; unset: a machine's workers share "
        "its CPUs.",
    )
    offload: Offload = Field(
        default="none", description="Place for optimizer state and weights that don't fit (DeepSpeed)."
    )
    nvme_path: str | None = Field(
        default=None, min_length=1, description="Folder on a fast disk of every machine, for offload nvme."
    )

    @property
    def num_workers(self) -> int | None:
        """Training processes in all, the most, if the configuration says: ``workers``, or ``gpus`` x ``nodes``."""
        if self.workers is not None:
            return self.workers if isinstance(self.workers, int) else self.workers[1]
        if self.gpus is not None:
            return self.gpus * (self.nodes or 1)
        return self.nodes

    @property
    def min_workers(self) -> int | None:
        """The fewest workers that may train; None where their number is fixed."""
        return self.workers[0] if isinstance(self.workers, tuple) else None

    def mistakes(self) -> Iterator[Mistake]:
        """The numbers must agree, and the strategy must be able to do what is asked."""
        num_workers, num_nodes = self.num_workers, self.nodes or 1
        if isinstance(self.workers, tuple):
            yield from self._elastic_mistakes(self.workers)
        elif self.workers is not None and self.gpus is not None and self.workers != self.gpus * num_nodes:
            yield Mistake(
                ("workers", "gpus", "nodes"),
                f"is {self.workers}, but {{1}} x {{2}} is {self.gpus} x {num_nodes} = {self.gpus * num_nodes}; "
                "there is one worker a GPU.",
            )
        elif self.workers is not None and self.workers % num_nodes:
            yield Mistake(("workers", "nodes"), f"is {self.workers}, which {{1}} = {num_nodes} does not divide.")
        if self.strategy == "single" and num_workers not in {None, 1}:
            key = "workers" if self.workers is not None else "gpus" if self.gpus is not None else "nodes"
            yield Mistake(("strategy", key), f"is single, but {{1}} asks for {num_workers} workers; use ddp.")
        if self.offload != "none" and self.strategy not in ("auto", "deepspeed_zero2", "deepspeed_zero3"):
            yield Mistake(
                ("offload", "strategy"), f"needs {{1}} deepspeed_zero2 or deepspeed_zero3, not {self.strategy}."
            )
        if self.offload == "nvme" and self.strategy == "deepspeed_zero2":
            yield Mistake(("offload", "strategy"), "can be nvme with {1} deepspeed_zero3 only.")
        if (self.offload == "nvme") != (self.nvme_path is not None):
            yield Mistake(("nvme_path", "offload"), "has to be set with {1} nvme, and only then.")

    def _elastic_mistakes(self, workers: tuple[int, int]) -> Iterator[Mistake]:
        if workers[0] > workers[1]:
            yield Mistake(("workers",), f"is [{workers[0]}, {workers[1]}]; the lower number comes first.")
        for key in ("gpus", "nodes"):
            if getattr(self, key) is not None:
                yield Mistake(("workers", key), "is a range, and {1} a number; leave {1} out.")


class FineTuning(Section):
    """Training of a model."""

    method: Method = Field(
        default="auto",
        description="Weights to train; 'auto' chooses by the model's size and the memory found.",
    )
    objective: Objective = Field(
        default="sft", description="Loss to minimize; sft: the answers' negative log-likelihood."
    )
    parameters: MethodParameters = section(MethodParameters, "Parameters of the method.")
    training: Training = section(Training, "The training loop.")
    distributed: Distributed = section(Distributed, "Workers, and the division of the work between them.")
    intent: Intent = section(Intent, "Purpose of the result.")
    dpo: DpoSettings = section(DpoSettings, "Settings of the objective dpo.")
    kto: KtoSettings = section(KtoSettings, "Settings of the objective kto.")
    contrastive: ContrastiveSettings = section(ContrastiveSettings, "Settings of the objective contrastive.")

    @property
    def objective_settings(self) -> Section | None:
        """The section of the objective that is trained; None where it has none."""
        found: Section | None = getattr(self, self.objective, None)
        return found

    def mistakes(self) -> Iterator[Mistake]:
        """A prefix lies in a cache, which a layer that computes its activations twice drops."""
        if self.method == "prefix_tuning" and self.training.gradient_checkpointing:
            yield Mistake(
                ("training.gradient_checkpointing", "method"),
                "can't be true with {1} prefix_tuning: the layers would drop the prefix.",
            )

    def unused(self) -> Mapping[str, Unused]:
        """Each method has its own parameters, and each objective its own settings."""
        reason = Unused(
            "method", f"has no effect with {{1}} {self.method}; remove it, or choose a method that uses it."
        )
        found = {
            f"parameters.{key}": reason
            for keys, methods in _KEYS_OF_METHODS
            if self.method not in methods
            for key in keys
        }
        if self.method != "auto":
            for_auto = Unused("method", f"has no effect with {{1}} {self.method}; it is what auto goes by.")
            found |= {f"intent.{key}": for_auto for key in Intent.model_fields}
        for_other = Unused("objective", f"has no effect with {{1}} {self.objective}; it is another objective's.")
        for name, kind in (("dpo", DpoSettings), ("kto", KtoSettings), ("contrastive", ContrastiveSettings)):
            if name != self.objective:
                found |= {f"{name}.{key}": for_other for key in kind.model_fields}
        return found
