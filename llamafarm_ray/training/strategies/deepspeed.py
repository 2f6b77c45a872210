"""DeepSpeed's ZeRO: workers share optimizer state (1), gradients too (2), weights too (3).

https://arxiv.org/abs/1910.02054. Importing this module imports DeepSpeed, which chooses its accelerator then.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from transformers.integrations import HfDeepSpeedConfig

from llamafarm_ray.errors import TrainingError
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.training.strategies.base import (
    MOMENTS,
    LossScale,
    ParameterState,
    Strategy,
    optimizer_groups,
    trainable,
)
from llamafarm_ray.training.strategies.build_lock import only_builder

__all__ = ["ZERO_STAGES", "Zero1Strategy", "Zero2Strategy", "Zero3Strategy"]

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
"""An all-reduce for inference, which DeepSpeed would compile in the middle of starting up (some 40 s, once an
environment). Training uses the process group's own."""


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
            "fp16": {"enabled": self.precision.name == "fp16"},
            "steps_per_print": 2**62,
        }
        if offload := self._offload():
            settings["zero_optimization"]["offload_optimizer"] = offload
            settings["zero_force_ds_cpu_optimizer"] = False  # torch's fused AdamW does it, and on any CPU
        return settings

    def _offload(self) -> dict[str, Any]:
        """Return DeepSpeed's offload options; empty without offloading."""
        device = self.distributed.offload
        if device == "none":
            return {}
        settings = {"device": device, "pin_memory": self.place.device.type == "cuda"}
        return settings | ({"nvme_path": self.distributed.nvme_path} if device == "nvme" else {})

    def loading(self) -> AbstractContextManager[object]:
        """See `Strategy.loading`: from here on DeepSpeed knows the workers, without which it would shard for one."""
        if self.distributed.offload == "nvme":
            _build_io()
        deepspeed.init_distributed(dist_backend="nccl" if self.place.device.type == "cuda" else "gloo")
        return super().loading()

    def prepare(self, model: PreTrainedModel) -> None:
        """See `Strategy.prepare`."""
        groups = optimizer_groups(model, self.training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)  # the loop sets it before each step
        self.model, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=self.settings())
        self.module = self.model.module
        self._make_states(num_updates=0)

    def set_learning_rate(self, rate: float) -> None:
        """See `Strategy.set_learning_rate`."""
        for group in self.model.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: torch.Tensor) -> None:
        """See `Strategy.backward`."""
        self.model.backward(loss)

    def step(self) -> float | None:
        """See `Strategy.step`."""
        skipped = self.model.skipped_steps
        self.model.step()
        if self.model.skipped_steps > skipped:
            return None
        return float(self.model.get_global_grad_norm() or 0.0)

    def weights(self) -> dict[str, torch.Tensor]:
        """See `Strategy.weights`: gathered one by one, so that no worker holds more than a tensor too much."""
        whole: dict[str, torch.Tensor] = {}
        for name, parameter in trainable(self.module):
            weight = safe_get_full_fp32_param(parameter)
            if self.place.rank == 0:
                whole[name] = weight.detach().cpu().clone()
        return whole

    def autocast(self) -> AbstractContextManager[object]:
        """See `Strategy.autocast`: DeepSpeed converts the weights themselves, and keeps fp32 copies to update."""
        return contextlib.nullcontext()

    def export_state(self) -> Iterator[tuple[str, ParameterState]]:
        """See `Strategy.export_state`."""
        for name, parameter in trainable(self.module):
            state = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            state["weight"] = safe_get_full_fp32_param(parameter)
            yield name, {key: value.detach().cpu().float().clone() for key, value in state.items()}

    def import_state(self, state: Mapping[str, ParameterState], num_updates: int) -> None:
        """See `Strategy.import_state`."""
        if self.distributed.offload == "nvme":
            raise TrainingError(
                "A run whose optimizer state lies on NVMe can't go on from a checkpoint yet.",
                hint="Begin anew with --restart, or use fine_tuning.distributed.offload cpu.",
            )
        self._make_states(num_updates)
        for name, parameter in trainable(self.module):
            whole = {key: tensor.to(self.place.device) for key, tensor in state[name].items()}
            self._import(parameter, whole)

    def _make_states(self, num_updates: int) -> None:
        """Give AdamW states of zeros, as its first step would, before DeepSpeed looks at them.

        Stages 1 and 2 link each parameter to its part of the states once, after the step of the first parameter group,
        when the second group has none yet. So all groups get theirs first.
        """
        optimizer = self.model.optimizer
        for flat in self._partitions():
            optimizer.optimizer.state[flat] = {
                "step": torch.tensor(float(num_updates), device=flat.device),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }
        self._link_states()

    def _partitions(self) -> list[torch.Tensor]:
        """This worker's parts of the parameters as the optimizer sees them: flat, in fp32."""
        partitions: list[torch.Tensor] = self.model.optimizer.single_partition_of_fp32_groups
        return partitions

    def _link_states(self) -> None:
        """Let DeepSpeed link the parameters to the states of now."""
        optimizer = self.model.optimizer
        optimizer._hp_optimizer_states_linked = False  # noqa: SLF001 - see test_strategies.py
        optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - likewise

    def _import(self, parameter: Any, whole: ParameterState) -> None:
        with torch.no_grad():
            parameter.data.copy_(whole["weight"])
        safe_set_full_fp32_param(parameter, whole["weight"])
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, whole[key], key)

    def loss_scale(self) -> LossScale | None:
        """See `Strategy.loss_scale`."""
        if self.precision.name != "fp16":
            return None
        scaler = self.model.optimizer.loss_scaler  # a `DynamicLossScaler`
        good_steps = scaler.cur_iter - scaler.last_overflow_iter - 1
        return LossScale(float(scaler.cur_scale), good_steps, scaler.cur_hysteresis - 1)

    def set_loss_scale(self, scale: LossScale) -> None:
        """See `Strategy.set_loss_scale`."""
        if self.precision.name != "fp16":
            return
        scaler = self.model.optimizer.loss_scaler
        scaler.cur_scale = scale.scale
        # It compares two step numbers, of which only the difference counts.
        scaler.cur_iter, scaler.last_overflow_iter = scale.good_steps, -1
        scaler.cur_hysteresis = scaler.delayed_shift if scale.forgiven is None else scale.forgiven + 1


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
        if offload := self._offload():
            settings["zero_optimization"]["offload_param"] = offload
        return settings

    def _partitions(self) -> list[torch.Tensor]:
        partitions: list[torch.Tensor] = self.model.optimizer.fp32_partitioned_groups_flat
        return partitions

    def _make_states(self, num_updates: int) -> None:
        # Parts that lie on NVMe are not here to be looked at; AdamW makes its states when they are.
        if self.distributed.offload != "nvme":
            super()._make_states(num_updates)

    def _link_states(self) -> None:
        """Do nothing: stage 3 looks at the optimizer's states directly."""

    def _import(self, parameter: Any, whole: ParameterState) -> None:
        # DeepSpeed's own function for whole tensors fails where their size is no multiple of the workers.
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if self.place.rank == 0:
                parameter.data.copy_(whole["weight"])
        safe_set_local_fp32_param(parameter, self._part(parameter, whole["weight"]))
        for key in MOMENTS:
            safe_set_local_optimizer_state(parameter, self._part(parameter, whole[key]), key)

    def _part(self, parameter: Any, whole: torch.Tensor) -> torch.Tensor:
        """This worker's part of a tensor: equal parts, the last one filled up with zeros."""
        size = parameter.ds_tensor.numel()
        padded = torch.zeros(size * self.place.num_workers, dtype=whole.dtype, device=whole.device)
        padded[: whole.numel()] = whole.flatten()
        return padded[self.place.rank * size : (self.place.rank + 1) * size]

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


def _build_io() -> None:
    """Compile what DeepSpeed reads and writes NVMe with, which it would otherwise compile in the middle of starting up.

    The folder is ours alone, one for each Python and torch, so that no other program's leftovers are in it.

    Raises:
        TrainingError: the compiler fails, or another process builds for too long.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = cache / "llamafarm" / "torch_extensions" / f"{python}-torch{torch.__version__}"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    # This environment's ninja: one of another version doesn't read its log, and compiles all again (1.13 and 1.11).
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    builder = get_accelerator().create_op_builder("AsyncIOBuilder")
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return  # DeepSpeed says what is missing
    with only_builder(folder):
        try:
            builder.load()
        except (RuntimeError, OSError, ImportError) as error:
            raise TrainingError(
                f"DeepSpeed's parts for NVMe can't be compiled: {first_line(error)}",
                hint="Install a C++ compiler, ninja and libaio, or use fine_tuning.distributed.offload cpu.",
            ) from error
