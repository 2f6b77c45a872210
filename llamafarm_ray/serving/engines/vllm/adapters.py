"""vLLM's adapters: what its front end lists by name, and what its workers hold by number, kept one and the same.

vLLM's own ``unload_lora_adapter`` removes the name and leaves the weights with the workers. And an adapter that is
taken from the workers under a request comes back at their next step, from its files: for good if they are there, and if
they aren't, with the end of the engine. So its own books are asked before one is removed.

With `numbers` the only module that touches a vLLM that runs; `process` and `imports` start it. It
relies on ``OpenAIServingModels`` with its ``lora_requests``, ``lora_resolver_lock``, ``load_lora_adapter`` and
``unload_lora_adapter``, on ``remove_lora``, ``list_loras`` and ``errored`` of its ``engine_client``, an ``AsyncLLM``,
and on the ``request_states`` of that one's ``output_processor``, from which a request goes before the workers are told
to stop it; on ``dtype``, ``runner_type`` and ``model`` of its ``model_config``, and on its ``renderer.tokenizer``.
Tests call or name each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import ConflictError, UserError
from llamafarm_ray.models.sentence_files import pools_otherwise
from llamafarm_ray.serving.adapters.protocols import TakenOut
from llamafarm_ray.serving.engines.vllm.numbers import watch_logits

__all__ = ["VllmAdapters"]

_METHOD_FAILED = "method failed: "
"""End of what vLLM's engine puts before an error of a worker, ``Call to add_lora method failed: ``."""
_MAX_REASON_CHARS = 500


class VllmAdapters:
    """An :class:`~llamafarm_ray.serving.adapters.protocols.AdapterEngine` over vLLM in this process.

    Args:
        models: gives vLLM's ``OpenAIServingModels``, once the engine is started.
    """

    def __init__(self, models: Callable[[], Any]) -> None:
        self._models = models
        self._taken_out = TakenOut()

    def watch(self) -> None:
        """Take versions out that compute NaN; called once the engine is started."""
        watch_logits(self._models().engine_client, self._take_out)

    def _take_out(self, name: str) -> None:
        self._taken_out.add(name, "it computed NaN.")

    def check_adapter(self, name: str) -> None:
        """Check that a version was not taken out.

        Raises:
            NotNumbersError: it was.
        """
        self._taken_out.check(name)

    @property
    def dtype(self) -> str:
        """The dtype that the engine computes in, as torch names it; known once it is started."""
        return str(self._models().engine_client.model_config.dtype).removeprefix("torch.")

    @property
    def tokenizer(self) -> object:
        """The base model's tokenizer; known once the engine is started."""
        return self._models().engine_client.renderer.tokenizer

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Give vLLM the adapter in ``folder`` under ``name``.

        Raises:
            UserError: vLLM refuses it (rank above ``max_lora_rank``, modules it can't adapt, ...), or its vectors would
                be pooled as the base model's are, and it was trained otherwise.
        """
        # Importing vLLM takes seconds, and is done in replicas alone.
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        config = self._models().engine_client.model_config
        if config.runner_type == "pooling" and pools_otherwise(folder, Path(config.model)):
            raise UserError(f"The adapter {name} is pooled otherwise than its base model, which vLLM can't do.")
        asked = LoadLoRAAdapterRequest(lora_name=name, lora_path=str(folder))
        said = await self._models().load_lora_adapter(asked)
        if isinstance(said, ErrorResponse):
            raise UserError(f"vLLM refuses the adapter {name}: {_reason(said.error.message, folder)}")

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter from the workers' slots and memory, and its name from the list.

        Raises:
            ConflictError: requests for it are not over yet.
        """
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        models = self._models()
        known = models.lora_requests.get(name)
        if known is None:
            return
        client = models.engine_client
        under_way = sum(state.lora_name == name for state in client.output_processor.request_states.values())
        if under_way:
            raise ConflictError(f"{under_way} requests for {name} are not over yet.")
        await client.remove_lora(known.lora_int_id)
        await models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))
        models.lora_resolver_lock.pop(name, None)  # one for each name there ever was

    def is_engine_dead(self) -> bool:
        """Return True if the engine's process has ended or failed: vLLM refuses all requests from then on."""
        return bool(self._models().engine_client.errored)

    async def loaded(self) -> list[str]:
        """The names of the adapters that the workers hold, sorted; ``#number`` where the front end knows none."""
        models = self._models()
        names = {known.lora_int_id: name for name, known in models.lora_requests.items()}
        held = await models.engine_client.list_loras()
        return sorted(names.get(number, f"#{number}") for number in held)


def _reason(message: str, folder: Path) -> str:
    """Return why vLLM refuses an adapter, without the name of its own method and the folder on this server."""
    reason = message.rpartition(_METHOD_FAILED)[2].strip() or "it gives no reason."
    return reason.replace(str(folder), "its folder")[:_MAX_REASON_CHARS]
