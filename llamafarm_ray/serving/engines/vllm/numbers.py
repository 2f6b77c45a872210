"""Answers of vLLM that are no numbers: ended with an error as they appear, and their traces cleared from the cache.

vLLM counts the NaN in each request's logits where ``VLLM_COMPUTE_NANS_IN_LOGITS`` is set, and goes on: the answer is
empty, with status 200. Worse, the blocks of keys and values that such a request leaves behind are given to others, and
a masked NaN is still NaN in their sums. So the request is ended with an error, the version that it asked for is named,
and NaN are cleared from all blocks: those of requests that compute numbers hold none.

Of vLLM's private parts it relies on ``AsyncLLM.output_processor`` with its ``process_outputs`` and ``request_states``
(``lora_name`` and ``queue`` of each), on ``EngineCoreOutput.num_nans_in_logits``, on ``AsyncLLM.collective_rpc`` and on
``model_runner.kv_caches`` of a worker. A test names each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llamafarm_ray.serving.adapters.protocols import NotNumbersError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["WORKER_EXTENSION", "NumbersWorker", "watch_logits"]

logger = logging.getLogger(__name__)

WORKER_EXTENSION = f"{__name__}.NumbersWorker"
"""vLLM's ``worker_extension_cls``."""
_CLEAR = "clear_not_numbers"


class NumbersWorker:
    """The part of a vLLM worker that clears its cache of keys and values."""

    model_runner: Any

    def clear_not_numbers(self) -> int:
        """Put zeros in place of NaN and infinities in the cache, and return in how many of its tensors there were any.

        It runs between two steps of the engine.
        """
        import torch  # the replica needs none of it

        num_found = 0
        for cache in self.model_runner.kv_caches:
            if isinstance(cache, torch.Tensor) and cache.is_floating_point() and not bool(cache.sum().isfinite()):
                torch.nan_to_num(cache, nan=0.0, posinf=0.0, neginf=0.0, out=cache)
                num_found += 1
        return num_found


class _Watch:
    """Stands before the output processor of an engine.

    Args:
        client: vLLM's ``AsyncLLM``, started.
        on_bad: called with the engine name of a version that computed NaN.
    """

    def __init__(self, client: AsyncLLM, on_bad: Callable[[str], None]) -> None:
        self._client = client
        self._on_bad = on_bad
        self._process = client.output_processor.process_outputs
        self._clearing: asyncio.Task[None] | None = None
        client.output_processor.process_outputs = self

    def __call__(self, outputs: list[Any], *args: object, **options: object) -> object:
        """Take the engine's outputs of one step."""
        bad = [output for output in outputs if output.num_nans_in_logits]
        if bad:
            self._end(bad)
            outputs = [output for output in outputs if not output.num_nans_in_logits]
        return self._process(outputs, *args, **options)

    def _end(self, bad: list[Any]) -> None:
        states = self._client.output_processor.request_states
        for state in filter(None, (states.get(output.request_id) for output in bad)):
            name = state.lora_name
            # Until the cache is clear, others may have got a NaN from it.
            if name is not None and self._clearing is None:
                self._on_bad(name)
            if state.queue is not None:  # its reader takes the request from the engine
                state.queue.put(NotNumbersError(f"{name or 'The base model'} computed logits that are no numbers."))
        if self._clearing is None:
            self._clearing = asyncio.create_task(self._clear())

    async def _clear(self) -> None:
        try:
            await asyncio.sleep(0)  # first the readers take their requests from the engine
            await self._client.collective_rpc(_CLEAR)
        except Exception:  # the engine may be gone, and its own health says so
            logger.exception("The engine's cache can't be cleared of NaN.")
        finally:
            self._clearing = None


def watch_logits(client: AsyncLLM, on_bad: Callable[[str], None]) -> None:
    """End requests with an error if the logits of their next token are no numbers.

    Args:
        client: vLLM's ``AsyncLLM``, started.
        on_bad: called with the engine name of a version that computed them.
    """
    _Watch(client, on_bad)
