"""Updates that base models learned from the lessons, kept so that the next build need not learn them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from llamafarm_ray.storage import Location

__all__ = ["LearnedUpdate"]


@dataclass(frozen=True, slots=True)
class LearnedUpdate:
    """An update in a folder, anywhere fsspec reaches.

    Args:
        uri: the folder.
        key: digest of all that decides the update: weights, lessons and settings.
    """

    uri: str
    key: str

    def restore(self, student: object) -> bool:
        """Give a model its update; return False if there is none that fits, as where a file is damaged."""
        try:
            found = load(Location(self.uri).read(self._name))
        except (FileNotFoundError, SafetensorError):
            return False
        weights = _weights(student)
        if {name: weight.shape for name, weight in weights.items()} != {name: one.shape for name, one in found.items()}:
            return False
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(found[name])
        return True

    def save(self, student: object) -> None:
        """Store a model's update, whole or not at all."""
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in _weights(student).items()}
        Location(self.uri).write(self._name, save(tensors))

    @property
    def _name(self) -> str:
        return f"{self.key}.safetensors"


def _weights(student: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
