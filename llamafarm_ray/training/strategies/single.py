"""One worker: plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from llamafarm_ray.training.strategies.base import Strategy, optimizer_groups, trainable_names

__all__ = ["SingleStrategy"]


class SingleStrategy(Strategy):
    """One worker holds everything."""

    name: ClassVar[str] = "single"

    def prepare(self, model: Any) -> None:
        """See `Strategy.prepare`."""
        self.module = model.to(self.place.device)
        self.model = self.module
        self.optimizer = torch.optim.AdamW(
            optimizer_groups(self.module, self.training.weight_decay), lr=self.training.learning_rate
        )

    def set_learning_rate(self, rate: float) -> None:
        """See `Strategy.set_learning_rate`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """See `Strategy.backward`."""
        del last
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """See `Strategy.step`."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.training.max_grad_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def weights(self) -> dict[str, torch.Tensor]:
        """See `Strategy.weights`."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }

    def save(self, folder: Path) -> None:
        """See `Strategy.save`: every worker has the same, so rank 0 writes."""
        if self.place.rank == 0:
            torch.save({"weights": self.weights(), "optimizer": self.optimizer.state_dict()}, folder / "state.pt")

    def load(self, folder: Path) -> None:
        """See `Strategy.load`."""
        state = torch.load(folder / "state.pt", map_location=self.place.device, weights_only=True)
        parameters = dict(self.module.named_parameters())
        with torch.no_grad():
            for name in trainable_names(self.module):
                parameters[name].copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
