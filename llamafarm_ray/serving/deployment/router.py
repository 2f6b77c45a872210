"""The router that HAProxy asks for each request. Its process imports neither vLLM nor Ray Serve LLM's dependencies.

It answers as Ray's ``LLMRouter`` does, whose docstring says what HAProxy expects. Of Ray's private parts it relies on
(a test names each, so that an upgrade that moves one fails there):

* ``DeploymentHandle._init``, without which the first request would wait for the list of replicas,
* ``choose_replica(_reserve=False)``, which picks a replica without a request to it, and the ``_replica`` that was
  picked. (Its place would be taken when HAProxy's request comes; the gateway has its own queue.) Its other arguments
  come to :class:`~llamafarm_ray.serving.routing.affinity_router.AffinityRouter`, which picks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.remote.view import RegistryView
from llamafarm_ray.serving.deployment.adapter_manager import Served
from llamafarm_ray.serving.gateway.validation import caller_of
from llamafarm_ray.serving.http.asgi import App, Header
from llamafarm_ray.serving.ray_serve.ports import listen_on_loopback
from llamafarm_ray.serving.routing.ingress import Routing
from llamafarm_ray.serving.routing.signed_header import ROUTED_HEADER, HeaderSigner
from llamafarm_ray.types import AUTO_MODEL

__all__ = ["Router"]

_PICK_S = 2.0
"""Timeout in seconds of the choice of a replica."""
_NONE = ("", 0, "none")
"""Host, port and id of a replica that is not in HAProxy's list."""


class Router:
    """Turns the model that a request names into one version, and picks a replica."""

    async def __init__(self, server: DeploymentHandle, *, served: Served) -> None:  # type: ignore[misc]  # Serve awaits it
        listen_on_loopback()
        self._server = server
        self._served = served
        self._seal = HeaderSigner(served.secret)
        self._view = RegistryView(served.home)
        await self._view.start()
        server._init()  # noqa: SLF001

    def __serve_build_asgi_app__(self) -> App:
        """The HTTP app that HAProxy asks, which Serve asks for once the router is made (see ``serve.ingress``).

        A question has the client's session header (``RAY_SERVE_SESSION_ID_HEADER_KEY``). The headers in its answer
        reach the replica, and clients can't set them.
        """
        return Routing(Starlette(), decide=self._decide)

    async def _decide(self, headers: Sequence[Header], body: Mapping[str, object]) -> dict[str, object]:
        """The answer to HAProxy: a replica, and the version in the trusted header.

        Without that header, where the model is unknown, the replica answers with an error.
        """
        routed = self._routed(headers, body)
        # By the engine name alone: a version has the same replicas on its own and as either side of a rollout.
        host, port, replica = await self._picked(routed.partition(";")[0])
        decision: dict[str, object] = {"host": host, "port": port, "replica_id": replica}
        if routed:
            decision["request_headers"] = {ROUTED_HEADER.decode(): self._seal.close(routed)}
        return decision

    async def _picked(self, engine_name: str) -> tuple[str, int, str]:
        """A replica's host, port and id.

        If none runs any more, and HAProxy has no such list yet, or if the replica that was picked does not listen yet,
        they are those of a replica that is not in HAProxy's list. HAProxy sends such a request to Serve's own proxy,
        where requests wait for a first replica. Without an answer in five seconds, or with an error, it would refuse
        the request.
        """
        try:
            async with asyncio.timeout(_PICK_S):
                return await self._pick(engine_name)
        except TimeoutError:
            return _NONE

    async def _pick(self, engine_name: str) -> tuple[str, int, str]:
        async with self._server.choose_replica(engine_name=engine_name, _reserve=False) as selection:
            replica = selection._replica  # noqa: SLF001
            if replica.backend_http_endpoint is None:
                return _NONE
            host, port = replica.backend_http_endpoint
            return host, port, replica.replica_id.to_full_id_str()

    def _routed(self, headers: Sequence[Header], body: Mapping[str, object]) -> str:
        model = body.get("model")
        if not isinstance(model, str) or model == AUTO_MODEL:  # the replica chooses: it knows the key and the limits
            return ""
        try:
            return self._served.resolve(model, self._view, caller_of(headers, body)).routed
        except LlamaFarmError:
            return ""
