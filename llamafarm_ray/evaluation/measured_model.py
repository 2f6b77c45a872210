"""A model's files, as measurements take them: named here, so that callers need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MeasuredModel"]


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model's folders and the digest of its files; ``base_weights`` is that of its base's alone."""

    base: Path
    adapter: Path | None
    weights: str
    base_weights: str
