"""Ranks of LoRA adapters, for vLLM's ``max_lora_rank``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

__all__ = ["least_lora_rank"]

_LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""The greatest ranks that vLLM can be told."""


def least_lora_rank(adapter: Path) -> int:
    """Return the least rank that vLLM can be told and that holds an adapter's."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())])
    return next((known for known in _LORA_RANKS if known >= rank), rank)
