"""A model, opened on its backend for the time of a block."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llamafarm_ray.evaluation.engines import TOKEN_ENGINES, Engine
from llamafarm_ray.evaluation.engines.on_tokens import EngineOnTokens
from llamafarm_ray.evaluation.engines.tokens import TokenEngine
from llamafarm_ray.evaluation.engines.transformers import TransformersEngine
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.models.tokenizer import quiet_libraries

__all__ = ["open_tokens", "opened"]


@contextmanager
def opened(model: MeasuredModel) -> Iterator[Engine]:
    """Open a model, and close it after the block.

    Raises:
        UserError: its files are unusable, or the backend is not installed.
    """
    quiet_libraries()
    engine: Engine
    if model.backend == "transformers":
        engine = TransformersEngine(model.base, model.adapter)
    else:
        engine = EngineOnTokens(open_tokens(model.backend, model.options), model.backend)
    try:
        yield engine
    finally:
        engine.close()


def open_tokens(backend: str, options: Mapping[str, object]) -> TokenEngine:
    """Return the model that a backend's options name."""
    module, _, name = TOKEN_ENGINES[backend].partition(":")
    found: TokenEngine = getattr(importlib.import_module(module), name)(**options)
    return found
