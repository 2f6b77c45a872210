"""The result of holding a model's tensors against its architecture."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Comparison"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tensors of files beside those of an architecture.

    Attributes:
        num_parameters: the architecture's parameters, tied ones once; ``None`` where it is not known.
        missing: tensors that no file has.
        unexpected: tensors that belong to no part of the architecture.
        misshapen: tensors of another shape, with both.
        unchecked: the reason why there is no comparison; empty if there is one.
    """

    num_parameters: int | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unchecked: str = ""
