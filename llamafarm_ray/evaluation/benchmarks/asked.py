"""Models as backends ask them, and requests that one worker answers together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamafarm_ray.evaluation.benchmarks.backends import RequestKind

__all__ = ["AskedModel", "Chunk"]


@dataclass(frozen=True, slots=True)
class AskedModel:
    """A model on a backend.

    Args:
        backend: the engine by name.
        options: options to open the engine with.
        with_adapter: False asks the base without the adapter.
        keeps: True if its answers may be stored; an endpoint may have other weights tomorrow.
    """

    backend: str
    options: Mapping[str, object]
    weights: str
    with_adapter: bool = True
    keeps: bool = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """Requests that one worker answers together.

    Args:
        has_template: True if the chat template wrote the texts.
    """

    kind: RequestKind
    requests: tuple[tuple[object, ...], ...]
    has_template: bool
