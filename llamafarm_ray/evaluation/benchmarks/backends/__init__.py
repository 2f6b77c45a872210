"""Engines that benchmarks are asked on, behind one protocol."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

__all__ = ["LOADERS", "Answerer", "RequestKind", "load_answerer"]

RequestKind = str
"""A kind of lm-eval's requests: ``loglikelihood``, ``loglikelihood_rolling`` or ``generate_until``."""

LOADERS: Final = {
    "transformers": "llamafarm_ray.evaluation.benchmarks.backends.transformers:TransformersAnswerer",
    "vllm": "llamafarm_ray.evaluation.benchmarks.backends.vllm:VllmAnswerer",
    "endpoint": "llamafarm_ray.evaluation.benchmarks.backends.token_lm:open_endpoint",
    "gguf": "llamafarm_ray.evaluation.benchmarks.backends.token_lm:open_gguf",
}
"""The class or function of each backend, as ``module:name``; it takes the backend's options.

vLLM is lm-eval's own class here, so that scores are lm-eval's to the last digit.
"""


class Answerer(Protocol):
    """A model on one engine. Its weights are loaded by the first request, so that stored answers need none."""

    @property
    def chat_template(self) -> str:
        """The chat template; empty where the model has none."""

    @property
    def precision(self) -> str:
        """The type of numbers that it computes in; empty where the engine does not tell."""

    def render(self, chat: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a chat as the model's template writes it."""

    def answer(
        self, kind: RequestKind, requests: Sequence[Sequence[object]], *, with_adapter: bool, has_template: bool
    ) -> list[object]:
        """Return lm-eval's answer to each request, in order.

        Args:
            with_adapter: False asks the base without the adapter.
            has_template: True if the chat template wrote the texts.
        """


def load_answerer(backend: str, options: Mapping[str, object]) -> Answerer:
    """Return the model that a backend's options name."""
    module, _, name = LOADERS[backend].partition(":")
    found: Answerer = getattr(importlib.import_module(module), name)(**options)
    return found
