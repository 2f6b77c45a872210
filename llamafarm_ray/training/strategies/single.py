"""One worker: plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from llamafarm_ray.training.strategies.base import (
    MOMENTS,
    LossScale,
    ParameterState,
    Strategy,
    optimizer_groups,
    trainable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["SingleStrategy"]


class SingleStrategy(Strategy):
    """One worker holds everything."""

    name: ClassVar[str] = "single"

    def prepare(self, model: PreTrainedModel) -> None:
        """See `Strategy.prepare`."""
        self.module = model.to(self.place.device)
        self.model = self.module
        self.optimizer = torch.optim.AdamW(
            optimizer_groups(self.module, self.training.weight_decay), lr=0.0, fused=True
        )
        # fp16's smallest number is 6e-8: losses are scaled up, and steps that overflow are left out.
        self._scaler = torch.amp.GradScaler(self.place.device.type, enabled=self.precision.name == "fp16")

    def set_learning_rate(self, rate: float) -> None:
        """See `Strategy.set_learning_rate`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: torch.Tensor) -> None:
        """See `Strategy.backward`."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> float | None:
        """See `Strategy.step`."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or float("inf")))
        scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return None if self._scaler.get_scale() < scale else norm

    def weights(self) -> dict[str, torch.Tensor]:
        """See `Strategy.weights`."""
        return {name: parameter.detach().cpu().clone() for name, parameter in trainable(self.module)}

    def export_state(self) -> Iterator[tuple[str, ParameterState]]:
        """See `Strategy.export_state`: every worker has everything."""
        for name, parameter in trainable(self.module):
            moments = self.optimizer.state.get(parameter, {})
            state = {key: moments.get(key, torch.zeros_like(parameter)) for key in MOMENTS}
            yield name, {key: value.detach().cpu().float() for key, value in (state | {"weight": parameter}).items()}

    def import_state(self, state: Mapping[str, ParameterState], num_updates: int) -> None:
        """See `Strategy.import_state`."""
        for name, parameter in trainable(self.module):
            with torch.no_grad():
                parameter.copy_(state[name]["weight"])
            moments = {key: torch.zeros_like(parameter).copy_(state[name][key]) for key in MOMENTS}
            step = torch.tensor(float(num_updates), device=self.place.device)
            self.optimizer.state[parameter] = {"step": step, **moments}

    def loss_scale(self) -> LossScale | None:
        """See `Strategy.loss_scale`."""
        state = self._scaler.state_dict()
        return LossScale(state["scale"], state["_growth_tracker"]) if state else None

    def set_loss_scale(self, scale: LossScale) -> None:
        """See `Strategy.set_loss_scale`."""
        state = self._scaler.state_dict()
        if state:
            # It counts up to the interval at which it grows, and from nothing then; DeepSpeed goes on counting.
            counted = scale.good_steps % state["growth_interval"]
            self._scaler.load_state_dict(state | {"scale": scale.scale, "_growth_tracker": counted})
