"""Ray Serve LLM's vLLM. Only the process of a replica imports this module, since the import takes ten seconds.

It relies on these private parts of Ray (a test names each, so that an upgrade that moves one fails there):

* ``LLMServer.sync_init`` and its ``engine_cls``, ``LLMServer.start``, ``_start_engine`` and ``engine``,
* ``VLLMEngine.build_asgi_app``, ``VLLMEngine._start_async_llm_engine`` and ``VLLMEngine._oai_models``, which is vLLM's,
* ``CallbackBase.on_before_node_init`` and ``CallbackCtx.run_init_node``.
"""

from __future__ import annotations

from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig

from llamafarm_ray.serving.engines.vllm.grammars import refuse_failed_grammars
from llamafarm_ray.serving.engines.vllm.llm_config import LlmConfig
from llamafarm_ray.serving.engines.vllm.process import engine_arranged
from llamafarm_ray.serving.engines.vllm.token_ids import bound_token_ids

__all__ = ["check", "server"]


class LocalFiles(CallbackBase):  # type: ignore[misc]
    """Says that the base model, a folder, needs no download.

    To see that for itself, Ray would start a process that imports all of vLLM, and the engine would wait for it.
    """

    async def on_before_node_init(self) -> None:
        """Called in a replica before its engine starts."""
        self.ctx.run_init_node = False


class Engine(VLLMEngine):  # type: ignore[misc]
    """vLLM as Ray starts it, repaired, and in fewer processes where that is faster."""

    def _start_async_llm_engine(
        self, vllm_engine_args: object, vllm_engine_config: object, placement_group: object
    ) -> object:
        with engine_arranged(vllm_engine_config):
            client = super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)
        refuse_failed_grammars(client)
        bound_token_ids(client)
        return client


class Server(LLMServer):  # type: ignore[misc]
    """One engine of Ray Serve LLM."""

    async def _start_engine(self) -> None:
        """Start without the report of served models, for which Ray starts a process while the replica waits."""
        await self.engine.start()


def server(llm_config: LlmConfig) -> LLMServer:
    """An engine that is not started yet.

    Args:
        llm_config: the plain values of Ray's ``LLMConfig``.
    """
    config = LLMConfig(**llm_config)
    config.callback_config = CallbackConfig(callback_class=LocalFiles)
    return Server.sync_init(config, engine_cls=Engine)


def check(llm_config: LlmConfig) -> None:
    """Make sure that vLLM has every engine option.

    Args:
        llm_config: the plain values of Ray's ``LLMConfig``.

    Raises:
        ValueError: it does not.
    """
    LLMConfig(**llm_config).get_engine_config()
