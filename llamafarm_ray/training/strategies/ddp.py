"""Several workers, each with the whole model; gradients are averaged (torch's DistributedDataParallel)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch.nn.parallel import DistributedDataParallel

from llamafarm_ray.training.strategies.single import SingleStrategy

__all__ = ["DdpStrategy"]


class DdpStrategy(SingleStrategy):
    """Every worker holds everything."""

    name: ClassVar[str] = "ddp"

    def prepare(self, model: Any) -> None:
        """See `Strategy.prepare`."""
        super().prepare(model)
        devices = [self.place.device] if self.place.device.type == "cuda" else None
        self.model = DistributedDataParallel(self.module, device_ids=devices)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """See `Strategy.backward`: only a window's last backward talks to the other workers."""
        with nullcontext() if last else self.model.no_sync():
            super().backward(loss, last=last)
