"""Constraints on an answer's form (``structured_outputs``, ``response_format``, forced tools), in any order.

vLLM chooses a library for each constraint, by what that can express, and checks it with that. But vLLM 0.32 makes one
library only, the one that the first request needed, and gives it all other requests' constraints too: what a client is
answered depends on who came before. Here an engine has each library that its requests need.

A constraint may pass vLLM's check and fail all the same: it takes too long to compile, or no token fits. Then vLLM ends
that request alone, but as a fault of its own. Here it is the client's (400), so that it counts for no rollout's guard.

It relies on ``StructuredOutputManager`` with its ``backend``, ``grammar_init`` and ``clear_backend``, on
``vllm.v1.engine.core`` taking that class from its globals, and on ``AsyncLLM.generate``, whose outputs'
``finish_reason`` is ``error`` then. A test names each.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine import core
from vllm.v1.structured_output import StructuredOutputManager

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.request import Request

__all__ = ["GrammarManager", "refuse_failed_grammars", "use_grammar_manager"]

_REFUSAL = "The constraint on the answer's form can't be compiled, or no answer meets it."


class GrammarManager(StructuredOutputManager):  # type: ignore[misc]
    """Compiles each request's constraint with the library that it was checked with."""

    backend: Any
    """The library that masks are allocated by."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        super().__init__(vllm_config)
        self._backends: dict[str, object] = {}

    def grammar_init(self, request: Request) -> None:
        """Make the library that a request needs, if it is not there yet, and begin to compile in a thread.

        Raises:
            ValueError: the library has masks of another size than the one that masks were allocated for.
        """
        if request.structured_output_request is None:
            return
        name = request.sampling_params.structured_outputs._backend  # noqa: SLF001
        with_own = copy.copy(self)
        with_own.backend = self._backends.get(name)
        StructuredOutputManager.grammar_init(with_own, request)
        self._backends[name] = with_own.backend
        self.backend = self.backend or with_own.backend
        if _mask_size(with_own.backend) != _mask_size(self.backend):
            raise ValueError(f"The masks of {name} don't fit this model's vocabulary.")

    def clear_backend(self) -> None:
        """Free the libraries."""
        super().clear_backend()
        self._backends.clear()


def use_grammar_manager() -> None:
    """Make the engine of this process use :class:`GrammarManager`."""
    core.StructuredOutputManager = GrammarManager


def refuse_failed_grammars(client: AsyncLLM) -> None:
    """Refuse a request whose constraint can't be compiled or met.

    Args:
        client: vLLM's ``AsyncLLM``, which this changes.
    """
    generate = client.generate

    def refusing(prompt: object, sampling_params: object, *args: object, **kwargs: object) -> AsyncGenerator[Any, None]:
        outputs = generate(prompt, sampling_params, *args, **kwargs)
        return outputs if getattr(sampling_params, "structured_outputs", None) is None else _refused(outputs)

    client.generate = refusing


async def _refused(outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            if any(answer.finish_reason == "error" for answer in output.outputs):
                raise VLLMValidationError(_REFUSAL)
            yield output


def _mask_size(backend: Any) -> int:
    return int(backend.allocate_token_bitmask(1).shape[1])
