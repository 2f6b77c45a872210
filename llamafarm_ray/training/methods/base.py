"""Base of fine-tuning methods: loading and wrapping a model, and saving the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import IntegrityError
from llamafarm_ray.models.loading import Architecture, Task, load_model
from llamafarm_ray.storage.formats.finite import find_not_finite
from llamafarm_ray.storage.formats.safetensors import read_tensors
from llamafarm_ray.types import ModelKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Method", "Precision", "Server", "Task", "check_saved_weights"]

Server = Literal["vllm", "peft"]
"""Server of a method's result: vLLM, or plain transformers with peft."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The number format of a run: ``fp32``, or ``bf16`` or ``fp16`` to compute in; what is trained stays in fp32."""

    name: str

    @property
    def compute_dtype(self) -> torch.dtype:
        """The format of matrix products."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name, torch.float32)


class Method(ABC):
    """A fine-tuning method.

    Args:
        parameters: the configuration's ``fine_tuning.parameters``.
    """

    name: ClassVar[str]
    kind: ClassVar[ModelKind]
    packable: ClassVar[bool] = True
    """True if rows may lie one after the other in one sequence, with attention kept apart."""
    checkpointable: ClassVar[bool] = True
    """True if activations can be recomputed in the backward pass instead of being kept."""

    def __init__(self, parameters: MethodParameters) -> None:
        self.parameters = parameters

    @property
    @abstractmethod
    def served_by(self) -> Server:
        """Return the server of the result; parameters may matter (vLLM has no DoRA)."""

    @property
    def not_shardable(self) -> str:
        """Return the reason why ZeRO stage 3 can't split the model's weights between workers; empty where it can."""
        return ""

    @property
    def num_reserved_positions(self) -> int:
        """Positions that the method takes from the longest sequence the model was made for."""
        return 0

    @abstractmethod
    def check(self, architecture: Architecture) -> None:
        """Check that the parameters fit the model, before anything is started.

        Raises:
            UserError: they don't.
        """

    def load(
        self, folder: Path, *, precision: Precision, device: torch.device, task: Task = "causal-lm"
    ) -> PreTrainedModel:
        """The base model, ready to be wrapped; frozen weights may be held in the compute format."""
        del device  # a strategy moves the model; only a quantised one is born where it stays
        return load_model(folder, dtype=precision.compute_dtype, task=task)

    @abstractmethod
    def wrap(self, model: PreTrainedModel, *, base_model: Path, task: Task = "causal-lm") -> PreTrainedModel:
        """The model to train: exactly the parameters with ``requires_grad`` change and are saved."""

    @abstractmethod
    def save(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write what the method produced.

        Args:
            model: the wrapped model, for names and configuration; its own tensors may be empty shards.
            weights: the trained parameters by their name in ``model``, whole and on the CPU.
            folder: an existing folder.

        Raises:
            IntegrityError: a tensor is empty or not finite.
        """


def check_saved_weights(folder: Path) -> None:
    """Read the safetensors files back and check every tensor.

    Raises:
        IntegrityError: there are none, or a tensor is empty or holds a NaN or an infinity.
    """
    paths = sorted(folder.glob("*.safetensors"))
    tensors = [tensor for path in paths for tensor in read_tensors(path)]
    if not tensors:
        raise IntegrityError("The trained model has no tensors.", hint="Nothing was saved; this is a fault of ours.")
    for tensor in tensors:
        if 0 in tensor.shape:
            raise IntegrityError(
                f"The trained tensor {tensor.name!r} is empty.", hint="Nothing was saved; this is a fault of ours."
            )
    if found := find_not_finite(paths):
        raise IntegrityError(
            f"The trained weights are unusable: {found}.",
            hint="Nothing was saved. Lower fine_tuning.training.learning_rate.",
        )
