"""A running endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from llamafarm_ray.evaluation.engines.completions import EndpointEngine
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.models.tokenizer import load_tokenizer

__all__ = ["open_endpoint"]

_LONGEST: Final = 2048
"""Tokens that a model behind an endpoint reads, where its config does not say: lm-eval's own default."""


def open_endpoint(endpoint: Endpoint, folder: Path) -> EndpointEngine:
    """Return a `TokenEngine` that asks an endpoint."""
    return EndpointEngine(endpoint, load_tokenizer(folder), _max_length(folder))


def _max_length(folder: Path) -> int:
    config = folder / "config.json"
    known = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    length = known.get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else _LONGEST
