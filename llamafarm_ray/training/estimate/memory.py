"""Memory of one worker: the largest of three moments of a step.

Weights w, trained weights t, n workers (https://arxiv.org/abs/1910.02054 for what ZeRO shares)::

    weights     full: 4 t. Frozen: 2 w in bf16, 4 w in fp32; in 4 bits 0.5 bytes, and a constant for every 64 weights
                (https://arxiv.org/abs/2305.14314, double quantisation: 8 bits, and 32 for every 256 of them), but for
                embedding, norms and output head. Trained beside frozen weights: 4 t
    gradients   4 t; ddp: as much again, in buckets
    optimizer   AdamW: 8 t. ZeRO: 12 t / n, since it updates an fp32 copy
    ZeRO        stage 2 shares gradients, stage 3 weights too; 16-bit weights and gradients there take 2 bytes each

The moments: the loss is computed while all activations are kept; the first gradients come while activations are still
there; all gradients are there and the optimizer runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from llamafarm_ray.config import METHODS, STRATEGIES
from llamafarm_ray.errors import InputError, UnsupportedError, did_you_mean
from llamafarm_ray.training.estimate.activations import Activations
from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape
from llamafarm_ray.training.estimate.trained import Trained

__all__ = ["MemoryEstimate", "estimate_memory"]

_MIB = 1024**2
_FP32 = 4
_MOMENTS = 8
_ZERO_OPTIMIZER = 12
_BLOCK = 64
_NESTED_BLOCK = 256
_FRAMEWORK_BYTES = {"cpu": 515 * _MIB, "cuda": 700 * _MIB}
"""CPU: resident memory of a process that imported torch, transformers, peft and bitsandbytes and ran a step (measured,
535 MB). CUDA: context, cuBLAS workspaces and NCCL (an assumption, not measured)."""
_WORKSPACE_BYTES = {"cpu": 18 * _MIB, "cuda": 0}
"""Memory of matrix products and of the autograd engine's thread (measured on CPUs, 16 to 29 MB)."""
_CUDA_HOST_BYTES = 3 * 1024**3
"""A GPU worker's own process: libraries with CUDA, pinned buffers (an assumption)."""
_FRAGMENTATION = {"cpu": 0.0, "cuda": 0.05}
"""Share of activations that the allocator loses; none on CPUs, where large blocks go back to the system."""
_BUCKET_WEIGHTS = 500_000_000
_LIVE_WEIGHTS = 1_000_000_000
_NVME_BUFFER_BYTES = 5 * 100_000_000 * _FP32
"""DeepSpeed's defaults: reduce_bucket_size, stage3_max_live_parameters, and 5 buffers of 1e8 weights for NVMe."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of one worker at the moment of a step that needs most.

    Args:
        weights: all weights on the device.
        gradients: by trained weights, ddp's buckets included.
        optimizer: AdamW's moments, and ZeRO's fp32 weights.
        activations: bytes kept, or computed again, for the backward pass.
        logits: bytes where the loss is computed.
        buffers: of collectives and of gathered or dequantised weights.
        framework: libraries, the device's context, what the allocator loses.
        host: memory of the machine that the worker takes besides; for CPUs 0, since it is all the same.
        moment: the moment: ``loss``, ``backward`` or ``optimizer``.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    framework: int
    host: int = 0
    moment: str = field(default="loss", compare=False)

    @property
    def total(self) -> int:
        """All of the device's."""
        return self.model_bytes + self.framework

    @property
    def model_bytes(self) -> int:
        """Bytes of the model and the run, without `framework`."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.buffers

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True, slots=True)
class _States:
    """Bytes per worker that stay from step to step, and of a window's gradients."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float
    host: float


def estimate_memory(shape: ModelShape, setup: Setup) -> MemoryEstimate:
    """Return the peak memory of one worker.

    Raises:
        InputError: the method or the strategy is unknown.
        UnsupportedError: they can't be combined.
    """
    _check(setup)
    trained = Trained(shape, setup.method, setup.parameters)
    states, activations = _states(shape, setup, trained), Activations(shape, setup)
    # While a window's later micro-batches run, the gradients of the first ones are there already.
    early = states.gradients if setup.gradient_accumulation_steps > 1 else 0.0
    head = _FP32 * shape.embedding_weights if trained.is_full and setup.zero_stage == 0 else 0
    head_gradient = max(early, head)
    dequantised = 0
    if setup.method == "qlora":
        largest = max(linear.weights for linear in shape.linears)
        dequantised = largest * (2 if setup.is_low else _FP32)
    moments = [
        ("loss", early, activations.saved, activations.logits),
        ("loss", head_gradient, activations.saved, activations.log_probabilities),
        (
            "backward",
            head_gradient,
            activations.saved + activations.recomputed + activations.backward + dequantised,
            0,
        ),
        ("optimizer", states.gradients, 0, 0),
    ]
    moment, gradients, kept, logits = max(moments, key=lambda each: each[1] + each[2] + each[3])
    dynamic = (kept + logits) * _FRAGMENTATION[setup.device]
    return MemoryEstimate(
        weights=int(states.weights),
        gradients=int(gradients),
        optimizer=int(states.optimizer),
        activations=int(kept),
        logits=int(logits),
        buffers=int(states.buffers + _WORKSPACE_BYTES[setup.device]),
        framework=int(_FRAMEWORK_BYTES[setup.device] + dynamic),
        host=int(states.host),
        moment=moment,
    )


def _check(setup: Setup) -> None:
    for what, value, known in (("method", setup.method, METHODS), ("strategy", setup.strategy, STRATEGIES)):
        if value not in known:
            raise InputError(f"{value!r} is no {what} that can be estimated.", hint=did_you_mean(value, known))
    if setup.method == "qlora" and setup.zero_stage == 3:  # DeepSpeed's number for it
        raise UnsupportedError(
            "Method qlora can't be combined with strategy deepspeed_zero3: 4-bit weights are not split between "
            "workers.",
            hint="Use deepspeed_zero2 or ddp.",
        )
    if setup.method == "prefix_tuning" and setup.gradient_checkpointing:
        raise UnsupportedError(
            "Method prefix_tuning can't be combined with gradient_checkpointing: a block that is computed twice drops "
            "the prefix.",
            hint="Switch gradient_checkpointing off.",
        )


def _frozen_bytes(shape: ModelShape, setup: Setup) -> float:
    """Of weights that stay as they are."""
    if setup.method == "full":
        return 0
    each = 2 if setup.is_low else _FP32
    if setup.method != "qlora":
        return shape.num_parameters * each
    constants = (
        1 / _BLOCK + _FP32 / (_BLOCK * _NESTED_BLOCK) if setup.parameters.double_quantization else _FP32 / _BLOCK
    )
    # What is not quantised is held in fp32 by peft's preparation; DeepSpeed converts it.
    other = each if setup.zero_stage else _FP32
    return shape.linear_weights * (0.5 + constants) + shape.other_weights * other


def _states(shape: ModelShape, setup: Setup, trained: Trained) -> _States:
    frozen, count, workers = _frozen_bytes(shape, setup), trained.num_parameters, setup.num_workers
    own_host = _CUDA_HOST_BYTES if setup.device == "cuda" else 0
    if setup.zero_stage == 0:
        buckets = _FP32 * count if workers > 1 else 0
        return _States(frozen + _FP32 * count, _FP32 * count + buckets, _MOMENTS * count, 0, own_host)
    each = 2 if setup.is_low else _FP32
    optimizer = _ZERO_OPTIMIZER * count / workers
    gradients = each * count / (workers if setup.zero_stage > 1 else 1)
    weights = frozen + each * count
    # On CUDA the bucket is taken whole at once; on CPUs only what is written becomes real.
    buffers = float(each * (_BUCKET_WEIGHTS if setup.device == "cuda" else min(count, _BUCKET_WEIGHTS)))
    if setup.zero_stage == 1 and workers == 1:
        buffers = 0.0
    if setup.zero_stage == 3:  # DeepSpeed's number for it
        buffers += each * min(shape.num_parameters, _LIVE_WEIGHTS)
        weights /= workers
    host = 0.0
    if setup.offload != "none":
        host += optimizer + _FP32 * count / workers
        optimizer, gradients = 0.0, 0.0
        if setup.zero_stage == 3:  # as above
            host, weights = host + weights, 0.0
        if setup.offload == "nvme":
            host = _NVME_BUFFER_BYTES
    if setup.device == "cpu":  # one and the same memory
        return _States(weights, gradients, optimizer + host, buffers, 0)
    return _States(weights, gradients, optimizer, buffers, host + own_host)
