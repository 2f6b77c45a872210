"""The table of other spellings: keys of widely used tools, and the older places of our own keys.

Every row is data; :mod:`llamafarm_ray.config.aliases.alias` says what its columns mean. A plain name is read at the
root and in every section around its target, so ``lora_r`` works at the top of a file and inside of ``fine_tuning``.
"""

from __future__ import annotations

from typing import Final

from llamafarm_ray.config.aliases.methods import LORA, METHODS
from llamafarm_ray.config.aliases.sections import DATA, MEASURES, MODEL, PLACES, SERVING
from llamafarm_ray.config.aliases.training import LOOP, WORKERS

__all__ = ["ALIASES"]

ALIASES: Final = (
    *PLACES,
    *MODEL,
    *METHODS,
    *LORA,
    *LOOP,
    *WORKERS,
    *DATA,
    *MEASURES,
    *SERVING,
)
"""Every other spelling that is read, in the order of the documentation."""
