"""Ray Serve's request router for replicas with adapters: :class:`.affinity.Affinity` behind Serve's own interface.

Serve makes one in each process that sends requests to the replicas. The application's router
(:mod:`llamafarm_ray.serving.deployment.router`) passes the version as ``choose_replica(engine_name=...)``; requests of
other callers have no name. Serve's own multiplexing is not used: it keeps a popular model on the one replica that has
it loaded, needs a report of loaded models from each replica, and keeps every name without one.

``ray.serve.request_router`` is public, as an alpha. Of what a router gets it relies on ``PendingRequest.kwargs`` and
``.routing_context.should_backoff``, and on ``RunningReplica.replica_id.unique_id`` (a test names them).
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from llamafarm_ray.serving.routing.affinity import Affinity

__all__ = ["AffinityRouter"]


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Ranks the replicas for a request: the one that is picked for its engine name, then all of them.

    For ``choose_replica(_reserve=False)`` the first is the answer. Serve sends its own requests to the next replica
    where the first does not report the length of its queue.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._affinity = Affinity()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Serve's question."""
        if not candidate_replicas:
            return []
        name = ""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Serve asks again at once, and again
            name = pending_request.kwargs.get("engine_name", "")
        running = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[running[self._affinity.pick(name, list(running))]], candidate_replicas]
