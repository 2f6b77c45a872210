"""The router that HAProxy asks for each request. Its process needs neither vLLM nor what that imports.

Of Ray's private parts it relies on (a test names each, so that an upgrade that moves one fails there):

* ``LLMRouter._get_handle`` and ``_pick_replica``, which pick a replica, by engine name, and
* ``app`` of what ``serve.ingress`` makes, the HTTP app that HAProxy asks and that gets the client's session header
  (``RAY_SERVE_SESSION_ID_HEADER_KEY``). The headers in its answer reach the replica, and clients can't set them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.llm._internal.serve.core.ingress.router import LLMRouter
from ray.serve.handle import DeploymentHandle

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.view import RegistryView
from llamafarm_ray.serving.asgi import Header
from llamafarm_ray.serving.intake import ROUTED_HEADER, caller_of
from llamafarm_ray.serving.routing import Routing
from llamafarm_ray.serving.selection import AUTO
from llamafarm_ray.serving.versions import Served

__all__ = ["Router"]

_PICK_S = 2.0
"""How long a replica is looked for."""


class Router(LLMRouter):  # type: ignore[misc]
    """Turns the model that a request names into one version, and picks a replica."""

    async def __init__(self, server: DeploymentHandle, *, served: Served) -> None:  # type: ignore[misc]
        self._served = served
        self._view = RegistryView(served.home)
        await self._view.start()
        await super().__init__(server=server, base_model_id=served.base_name)
        self.app.add_middleware(Routing, decide=self._decide)

    async def _decide(self, headers: Sequence[Header], body: dict[str, Any]) -> dict[str, Any]:
        """The answer to HAProxy: a replica, and the version in the trusted header.

        Without that header, where the model is unknown, the replica answers with an error.
        """
        routed = self._routed(headers, body)
        # By the engine name alone: both sides of a rollout find the replicas that have it loaded.
        handle = self._get_handle(routed.partition(";")[0])
        host, port, replica = await self._picked(handle)
        decision: dict[str, Any] = {"host": host, "port": port, "replica_id": replica}
        return {**decision, "request_headers": {ROUTED_HEADER.decode(): routed}} if routed else decision

    async def _picked(self, handle: DeploymentHandle) -> tuple[str, int, str]:
        """A replica, or one that HAProxy does not know where none runs any more and HAProxy was not told yet.

        It sends what it does not know to Serve's own proxy, where requests wait for a first replica. Without an answer
        in five seconds it would refuse the request.
        """
        try:
            async with asyncio.timeout(_PICK_S):
                host, port, replica, _ = await self._pick_replica(handle=handle)
        except TimeoutError:
            return "", 0, "none"
        return host, port, replica

    def _routed(self, headers: Sequence[Header], body: dict[str, Any]) -> str:
        model = body.get("model")
        if not isinstance(model, str) or model == AUTO:  # the replica chooses: it knows the key and the limits
            return ""
        try:
            return self._served.resolve(model, self._view, caller_of(headers, body)).routed
        except LlamaFarmError:
            return ""
