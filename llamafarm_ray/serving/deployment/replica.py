"""Common base of replicas on Ray Serve: the gateway in front of the engine, and answers to calls of other processes."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

from llamafarm_ray.models.token_bound import TokenBound
from llamafarm_ray.registry import BaseModel, base_here, open_registry
from llamafarm_ray.serving.deployment.adapter_manager import AdapterManager, Served
from llamafarm_ray.serving.deployment.autoscaling import CPU_METRIC, CpuMeter
from llamafarm_ray.serving.gateway.feedback import FeedbackLog
from llamafarm_ray.serving.gateway.gateway import MODEL_ROUTES, Gateway
from llamafarm_ray.serving.gateway.health_report import HealthReport
from llamafarm_ray.serving.http.asgi import App
from llamafarm_ray.serving.http.cors import for_web_pages
from llamafarm_ray.serving.ray_serve.ports import listen_on_loopback
from llamafarm_ray.serving.ray_serve.token import close_token
from llamafarm_ray.serving.routing.signed_header import HeaderSigner, VerifiedHeader
from llamafarm_ray.serving.telemetry.request_statistics import Activity
from llamafarm_ray.serving.telemetry.rollout_windows import Report
from llamafarm_ray.storage import Location

__all__ = ["Replica", "base_folder"]

logger = logging.getLogger("ray.serve.llamafarm")  # below Ray Serve's own, so that it lands in the replica's log

_LOOK_S = 0.1
"""Seconds between two checks that the engine is alive."""


async def base_folder(served: Served, folder: Path) -> Path:
    """The base model's files on this node.

    Args:
        folder: folder of the base model on the node that composed the application.

    Raises:
        LlamaFarmError: they can't be had here.
    """
    base = BaseModel(served.base_reference, served.base_name, folder, served.base_digest)
    return await asyncio.to_thread(lambda: base_here(base, open_registry(served.home)))


class Replica:
    """The part of a replica that does not depend on its engine."""

    def __init__(self, served: Served, versions: AdapterManager, num_cpus: float) -> None:
        listen_on_loopback()
        close_token()  # of a cluster that was started by hand, on this node
        self._served = served
        self._versions = versions
        self._cpu = CpuMeter(num_cpus)
        self._watching: asyncio.Task[None] | None = None

    def end_with_engine(self, is_dead: Callable[[], bool]) -> None:
        """End this process as soon as its engine is dead.

        Serve's health checks would find that out seconds later, and up to then each request that comes here fails at
        once. A process that is gone gets no requests: they go to other replicas, or wait for the next one.

        Args:
            is_dead: returns True once the engine can't answer any more, and never will again in this process.
        """
        self._watching = asyncio.create_task(_end_with_engine(is_dead))

    def gateway(
        self, app: App, routes: Collection[str] = MODEL_ROUTES, token_bound: TokenBound | None = None
    ) -> Gateway:
        """The gateway before the engine's HTTP app.

        Args:
            routes: its POST routes that name a model in their body.
            token_bound: of the engine's tokenizer.
        """
        versions, served = self._versions, self._served
        return Gateway(
            app,
            versions,
            keys=versions.keys,
            feedback=FeedbackLog(Location(served.home)),
            telemetry=versions.telemetry,
            limits=served.limits,
            accounts=versions.accounts,
            log_prompts=served.log_prompts,
            routes=routes,
            tracing=versions.tracing,
            journal=versions.journal,
            quotas=versions.quotas,
            health=HealthReport(Location(served.home), lambda: versions.state),
            token_bound=token_bound,
        )

    def front(self, app: App) -> App:
        """Return the app behind CORS and the check of the router's signed header.

        Args:
            app: the gateway, or an app that has it.
        """
        return for_web_pages(VerifiedHeader(app, HeaderSigner(self._served.secret)), self._served.allowed_origins)

    async def load(self, reference: str) -> str:
        """Load a version on this replica; return its engine name. Called on every replica before an alias moves."""
        return await self._versions.load(reference)

    async def rollout_report(self, rollout: str, after: dt.datetime) -> Report:
        """Return a rollout's windows that ended after a time."""
        return self._versions.rollout_report(rollout, after)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the CPU metric for Serve's autoscaler, which counts requests itself."""
        return {CPU_METRIC: await asyncio.to_thread(self._cpu.percent)}

    def reconfigure(self, settings: dict[str, object]) -> None:
        """Nothing: the settings are for who holds requests back while no replica runs, see :mod:`.cold_start`."""

    def num_loads(self) -> dict[str, int]:
        """Return the number of loads of each version, by engine name."""
        return self._versions.num_loads

    async def activity(self) -> Activity:
        """Return the loaded versions and recent requests of this replica."""
        return self._versions.activity()


async def _end_with_engine(is_dead: Callable[[], bool]) -> None:
    while not is_dead():  # noqa: ASYNC110  (engines tell nobody)
        await asyncio.sleep(_LOOK_S)
    logger.error("The engine has died, and this replica ends with it. Serve starts another one.")
    logging.shutdown()
    os._exit(1)  # no handler may wait for what will never be answered
