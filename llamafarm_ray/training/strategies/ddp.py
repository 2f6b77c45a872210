"""Several workers, each with the whole model; gradients are averaged (torch's DistributedDataParallel)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar

from torch.nn.parallel import DistributedDataParallel

from llamafarm_ray.training.strategies.single import SingleStrategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["DdpStrategy"]


class DdpStrategy(SingleStrategy):
    """Every worker holds everything."""

    name: ClassVar[str] = "ddp"

    def prepare(self, model: PreTrainedModel) -> None:
        """See `Strategy.prepare`."""
        super().prepare(model)
        devices = [self.place.device] if self.place.device.type == "cuda" else None
        self.model = DistributedDataParallel(self.module, device_ids=devices)

    def accumulating(self, *, last: bool) -> AbstractContextManager[object]:
        """See `Strategy.accumulating`."""
        quiet: AbstractContextManager[object] = nullcontext() if last else self.model.no_sync()
        return quiet
