"""A base model's weights in memory, held as they are while versions share them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["SharedWeights"]

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class SharedWeights:
    """The tensors of a base model, and a checksum of each.

    torch has no tensors that can't be written. So every version gets modules of its own around the same tensors
    (:meth:`twin`), and after it was put together the tensors are summed again (:meth:`changed`): as fast as memory is
    read, and every single write is seen.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._sums = self._checksums()

    def twin(self) -> PreTrainedModel:
        """Return the same model in new modules around the same tensors."""
        return copy.deepcopy(self._model, {id(tensor): tensor for tensor in self._tensors().values()})

    def changed(self) -> list[str]:
        """Return the names of the tensors that are not what they were, sorted."""
        sums = self._checksums()
        return sorted(name for name, one in self._sums.items() if sums.get(name) != one)

    @torch.no_grad()
    def restore(self, load: Callable[[], PreTrainedModel]) -> None:
        """Put the values of a model that is loaded anew into the tensors that have changed.

        Args:
            load: loads the base model.
        """
        changed = self.changed()
        right = dict(_tensors(load())) if changed else {}
        for name, tensor in self._tensors().items():
            if name in changed:
                tensor.data = right[name].to(tensor.device, tensor.dtype)

    def _tensors(self) -> Mapping[str, torch.Tensor]:
        return _tensors(self._model)

    @torch.no_grad()
    def _checksums(self) -> dict[str, int]:
        return {name: _checksum(tensor) for name, tensor in self._tensors().items()}


def _tensors(model: PreTrainedModel) -> Mapping[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _checksum(tensor: torch.Tensor) -> int:
    """Return the sum of a tensor's words as integers, which wraps."""
    words = tensor.detach().contiguous().reshape(-1)
    return int(words.view(_WORDS[words.element_size()]).sum(dtype=torch.int64)) if words.numel() else 0
