"""vLLM's worker on a CPU, with two repairs: :mod:`.base_rows`, and seeded requests of prompts computed in parts.

While a prompt is computed in parts, vLLM samples a token for the request at each step and drops it. It then sets the
request's random generator back, by the offset that generators of GPUs have. Those of CPUs have none, so vLLM 0.32 ends
the whole engine there. Here such requests have no generator of their own while a token is drawn to be dropped, which
leaves it as it was: the answer is the one that the same seed gives where the prompt is computed at once.

It relies on ``CPUWorker.init_device``, which makes a ``CPUModelRunner`` of its module, and on ``_sample``,
``_bookkeeping_sync``, ``input_batch.generators`` and ``discard_request_mask`` of that. Only an engine's process imports
this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from llamafarm_ray.serving.engines.vllm.base_rows import leave_base_rows_alone

__all__ = ["ModelRunner", "Worker"]


class ModelRunner(CPUModelRunner):  # type: ignore[misc]
    """Draws tokens that are dropped without the requests' own generators."""

    def _sample(self, *args: object, **kwargs: object) -> object:
        with self._without_dropped():
            return super()._sample(*args, **kwargs)

    def _bookkeeping_sync(self, *args: object, **kwargs: object) -> object:
        with self._without_dropped():
            return super()._bookkeeping_sync(*args, **kwargs)

    @contextlib.contextmanager
    def _without_dropped(self) -> Iterator[None]:
        generators = self.input_batch.generators
        is_dropped = self.discard_request_mask.np[: self.input_batch.num_reqs]
        dropped = {index: generators.pop(index) for index in np.flatnonzero(is_dropped).tolist() if index in generators}
        try:
            yield
        finally:
            generators.update(dropped)


class Worker(cpu_worker.CPUWorker):  # type: ignore[misc]
    """vLLM's, with :class:`ModelRunner`."""

    def init_device(self) -> None:
        """Make the model runner."""
        leave_base_rows_alone()
        before, cpu_worker.CPUModelRunner = cpu_worker.CPUModelRunner, ModelRunner
        try:
            super().init_device()
        finally:
            cpu_worker.CPUModelRunner = before
