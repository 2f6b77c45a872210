"""DeepSpeed's ZeRO: workers share optimizer state (1), gradients too (2), weights too (3).

https://arxiv.org/abs/1910.02054. Importing this module imports DeepSpeed, which chooses its accelerator then.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
from deepspeed.accelerator import get_accelerator
from transformers.integrations import HfDeepSpeedConfig

from llamafarm_ray.errors import TrainingError
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.training.strategies.base import Strategy, optimizer_groups
from llamafarm_ray.training.strategies.build_lock import only_builder

__all__ = ["ZERO_STAGES", "Zero1Strategy", "Zero2Strategy", "Zero3Strategy", "build_extensions"]


class _ZeroStrategy(Strategy):
    stage: ClassVar[int]

    def settings(self) -> dict[str, Any]:
        """DeepSpeed's configuration. Batch sizes are explicit: "auto" fails before torch.distributed is up."""
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": self.training.batch_size,
            "gradient_accumulation_steps": 1,
            "train_batch_size": self.training.batch_size * self.place.num_workers,
            # The loop says where a window ends (by calling step), so that an epoch's short last one is a step too.
            "managed_gradient_accumulation": False,
            "gradient_clipping": self.training.max_grad_norm,
            "zero_optimization": {"stage": self.stage, "overlap_comm": False, "contiguous_gradients": True},
            "bf16": {"enabled": self.precision.name == "bf16"},
            "steps_per_print": 2**62,
        }
        return settings

    def loading(self) -> AbstractContextManager[object]:
        """See `Strategy.loading`: from here on DeepSpeed knows the workers, without which it would shard for one."""
        build_extensions()
        deepspeed.init_distributed(dist_backend="nccl" if self.place.device.type == "cuda" else "gloo")
        return super().loading()

    def prepare(self, model: Any) -> None:
        """See `Strategy.prepare`."""
        groups = optimizer_groups(model, self.training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.training.learning_rate)
        self.model, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=self.settings())

    def set_learning_rate(self, rate: float) -> None:
        """See `Strategy.set_learning_rate`."""
        for group in self.model.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """See `Strategy.backward`."""
        del last
        self.model.backward(loss)

    def step(self) -> float:
        """See `Strategy.step`."""
        self.model.step()
        return float(self.model.get_global_grad_norm() or 0.0)

    def weights(self) -> dict[str, torch.Tensor]:
        """See `Strategy.weights`: gathered one by one, so that no worker holds more than a tensor too much."""
        whole: dict[str, torch.Tensor] = {}
        for name, parameter in self.model.module.named_parameters():
            if not parameter.requires_grad:
                continue
            # Without gathering, a parameter of stage 3 is an empty tensor.
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):  # noqa: PLR2004 - stage 3
                if self.place.rank == 0:
                    whole[name] = parameter.detach().cpu().clone()
        return whole

    def autocast(self) -> AbstractContextManager[object]:
        """See `Strategy.autocast`: DeepSpeed converts the weights themselves, and keeps fp32 copies to update."""
        return contextlib.nullcontext()

    def save(self, folder: Path) -> None:
        """See `Strategy.save`: every worker writes its part."""
        self.model.save_checkpoint(str(folder), tag="zero", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """See `Strategy.load`."""
        path, _ = self.model.load_checkpoint(str(folder), tag="zero", load_module_strict=False)
        if path is None:
            raise TrainingError(f"The checkpoint in {folder} can't be read by DeepSpeed.", hint="Start the run anew.")


class Zero1Strategy(_ZeroStrategy):
    """Workers share the optimizer's state."""

    name: ClassVar[str] = "deepspeed_zero1"
    stage: ClassVar[int] = 1


class Zero2Strategy(_ZeroStrategy):
    """Workers share the optimizer's state and gradients."""

    name: ClassVar[str] = "deepspeed_zero2"
    stage: ClassVar[int] = 2


class Zero3Strategy(_ZeroStrategy):
    """Workers share the optimizer's state, gradients and weights."""

    name: ClassVar[str] = "deepspeed_zero3"
    stage: ClassVar[int] = 3
    shards_weights: ClassVar[bool] = True

    def settings(self) -> dict[str, Any]:
        """See `_ZeroStrategy.settings`."""
        settings = super().settings()
        # Small tensors stay whole on every GPU, which saves gathers. On CPUs, where runs are small and this
        # would leave nothing to share, everything is split.
        persistence_threshold = 100_000 if self.place.device.type == "cuda" else 0
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = persistence_threshold
        return settings

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """See `Strategy.loading`."""
        with super().loading():
            # transformers shards weights while it reads them for as long as this object lives.
            config = HfDeepSpeedConfig(self.settings())
            yield
            del config


ZERO_STAGES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (Zero1Strategy, Zero2Strategy, Zero3Strategy)
}
"""The stages by their names in ``fine_tuning.distributed.strategy``."""


def build_extensions() -> None:
    """Compile what DeepSpeed would otherwise compile in the middle of starting up (some 40 s, once a machine).

    The folder is ours alone, one for each Python and torch, so that no other program's leftovers are in it.

    Raises:
        TrainingError: the compiler fails, or another process builds for too long.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = cache / "llamafarm" / "torch_extensions" / f"{python}-torch{torch.__version__}"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return
    with only_builder(folder):
        try:
            builder.load()
        except (RuntimeError, OSError, ImportError) as error:
            raise TrainingError(
                f"DeepSpeed's parts for this CPU can't be compiled: {first_line(error)}",
                hint="Install a C++ compiler and ninja, or use fine_tuning.distributed.strategy ddp.",
            ) from error
