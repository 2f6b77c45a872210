"""Serve a base model and its adapters on a Ray cluster."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from llamafarm_ray.config import Config
from llamafarm_ray.config import Deployment as DeploymentConfig
from llamafarm_ray.errors import AccessDeniedError, ConflictError, DeploymentError, InputError
from llamafarm_ray.registry import (
    BaseModel,
    DeploymentRecorded,
    RegistryApi,
    VersionRecord,
)
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.serving.deployment.memory import check_memory, memory_need
from llamafarm_ray.serving.deployment.reconciler import check_record, withdraw
from llamafarm_ray.serving.engines.choice import choose_engine
from llamafarm_ray.serving.gateway.auth import check_keys
from llamafarm_ray.serving.rollouts.start import roll_out
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.clusters.cluster import ClusterInfo, quiet
from llamafarm_ray.workflows.deployments.deployed import APPLICATION, own_key
from llamafarm_ray.workflows.inspection.base import servable_base
from llamafarm_ray.workflows.versions.register import Registration, register

if TYPE_CHECKING:
    from ray.serve.deployment import Application
    from ray.serve.schema import ApplicationStatusOverview

__all__ = [
    "Deployment",
    "check_deployment",
    "check_port",
    "deploy",
    "with_model",
]

_READY_S = 600.0
_POLL_S = 0.25
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running application.

    Attributes:
        url: the OpenAI-compatible root, such as ``http://127.0.0.1:8000/v1``.
        base_model: the name requests call the base by.
        seconds: from the call until it answered.
        rollouts: the ids of those under way because of this deployment.
    """

    url: str
    base_model: str
    models: tuple[str, ...]
    seconds: float
    rollouts: tuple[str, ...] = ()


def check_port(host: str, port: int) -> None:
    """Make sure that a port of this machine is free.

    Raises:
        InputError: something listens there already, or the address is not this machine's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"deployment.port: {host}:{port} can't be used: {error.strerror}.",
                hint="Choose another with --set deployment.port=PORT, or stop what listens there.",
            ) from None


def check_deployment(config: Config, registry: RegistryApi) -> BaseModel:
    """The base model to serve, and that its adapters exist: looked at before Ray is started or asked.

    Raises:
        UnsupportedError: the configuration asks for an engine that can't serve one of the adapters.
        InputError: the base model is missing or unusable, replicas would have less memory than its weights take, the
            endpoint would be open to a network without keys, or the target is Kubernetes.
        NotFoundError: an adapter is not registered.
        ConflictError: an adapter is to be rolled out while another version of its model is.
    """
    if config.deployment.target == "kubernetes":
        raise InputError(
            "deployment.target is kubernetes, and this serves on a Ray cluster.",
            hint="`llamafarm models deploy` prints a manifest for Kubernetes.",
        )
    check_keys(config.deployment, registry.refresh())
    for reference in config.deployment.adapters:
        registry.resolve(reference)
    base = servable_base(config.base_model, registry)
    on_gpu = config.deployment.resources.gpu is not None
    engine = choose_engine(config.deployment.engine, base, config.deployment.adapters, registry, on_gpu=on_gpu)
    check_memory(memory_need(engine, base, config.deployment), base, config.deployment)
    if config.deployment.strategy is not None:
        roll_out(registry, config.deployment.adapters, config.deployment.rollout, dry_run=True)
    return base


def with_model(config: Config, registry: RegistryApi, model: str | None) -> Config:
    """The configuration that serves ``model`` too: a base model, or an adapter and the base it was trained on.

    Folders of adapters, here and in ``deployment.adapters``, are registered, since only versions are served.

    Args:
        config: configuration that may already name a model to serve.
        model: a folder or a reference; ``None`` adds nothing.

    Raises:
        InputError: a folder is no model or adapter.
        NotFoundError: it is no folder, and not registered.
    """
    base, adapters = config.base_model, []
    for reference in (*config.deployment.adapters, *([model] if model else [])):
        record = _version_of(registry, reference)
        kind = record.registered.kind if record is not None else None
        is_other_file = kind is ModelKind.QUANTIZED and reference != model
        if record is None or not (kind is ModelKind.ADAPTER or is_other_file):
            if reference != model:
                raise InputError(f"deployment.adapters: {reference!r} is no adapter.", hint="Name it as base_model.")
            base = reference
            continue
        adapters.append(record.ref)
        if not is_other_file:
            base = base or record.registered.base_model
    deployment = config.deployment.model_copy(update={"adapters": tuple(dict.fromkeys(adapters))})
    return config.model_copy(update={"base_model": base, "deployment": deployment})


def _version_of(registry: RegistryApi, reference: str) -> VersionRecord | None:
    """The version of a reference or of an adapter's folder; nothing for the folder or file of a whole model."""
    folder = Path(reference).expanduser()
    if folder.is_file():
        return None
    if not folder.is_dir():
        return registry.resolve(reference)
    return register(registry, Registration(folder)) if (folder / "adapter_config.json").is_file() else None


def deploy(
    config: Config,
    registry: RegistryApi,
    cluster: ClusterInfo,
    *,
    on_progress: Callable[[str, float], None] | None = None,
) -> Deployment:
    """Start (or replace) the application of a configuration, and return once it answers over HTTP.

    With ``deployment.strategy``, adapters that are not yet the ``production`` of their models are then rolled out to
    it: every replica has them loaded by that time.

    Args:
        config: ``base_model`` and ``deployment`` are what counts.
        registry: registry for adapters and the record of the deployment.
        on_progress: called with Serve's state and the seconds so far.

    Raises:
        InputError: the port is in use, or the base model is unusable.
        ConflictError: the cluster's Serve listens at another port, or another cluster serves from this home.
        DeploymentError: it did not become healthy; unless it replaced another, nothing of it is left running.
        PolicyError: an adapter may not be rolled out. The application runs all the same.
    """
    base = check_deployment(config, registry)
    _check_record(registry, cluster)
    from ray import serve  # reads the environment that `connect` has set
    from ray.exceptions import RayError

    from llamafarm_ray.serving.application import arguments, build
    from llamafarm_ray.serving.ray_serve.state import http_address, url_of

    quiet()
    started = time.monotonic()
    wanted = config.deployment
    replaced = http_address() is not None and APPLICATION in serve.status().applications
    try:
        with _serve_started(wanted.host, wanted.port, cluster):
            application = build(arguments(_without_strategy(config), registry.home.uri))
            quiet()  # Ray Serve LLM, which that may import, sets the loggers up anew
            _run(application, lambda: on_progress and on_progress("starting the engine", time.monotonic() - started))
    except (RayError, RuntimeError, TimeoutError) as error:
        said = []
        with contextlib.suppress(Exception):  # it may not have come that far, and the first error is the one to tell
            said = _messages(serve.status().applications[APPLICATION])
            if not replaced:
                _undo(registry, cluster)
        raise DeploymentError(f"Ray Serve could not start: {_last_line(str(error), said)}") from error
    url = url_of(APPLICATION)
    if url is None:
        raise DeploymentError("Serve stopped while the application started.", hint="`serve status` says more.")
    try:
        models = _wait_until_ready(url, started, on_progress)
    except BaseException:  # Ctrl-C too: an application that never got ready is removed, unless it replaced one
        if not replaced:
            _undo(registry, cluster)
        raise
    rollouts = _record_and_roll_out(wanted, registry, cluster, base, url)
    return Deployment(url, base.name, models, time.monotonic() - started, rollouts)


def _undo(registry: RegistryApi, cluster: ClusterInfo) -> None:
    """Take the application off Serve, and off the record that a replica may have written already."""
    from ray import serve

    serve.delete(APPLICATION)
    withdraw(registry, APPLICATION, cluster.address)


def _record_and_roll_out(
    wanted: DeploymentConfig, registry: RegistryApi, cluster: ClusterInfo, base: BaseModel, url: str
) -> tuple[str, ...]:
    """Record the deployment, start the controller of rollouts and begin those asked for; return their ids."""
    from llamafarm_ray.serving.deployment.rollout_actor import start_controller

    recorded = DeploymentRecorded(
        application=APPLICATION,
        base_model=base.name,
        base_digest=base.digest,
        url=url,
        ray_address=cluster.address,
        adapters=tuple(registry.resolve(reference).ref for reference in wanted.adapters),
    )
    try:
        _check_record(registry, cluster)  # another one may have started meanwhile
        registry.submit(RecordDeployment(recorded), reason="deploy")
        token = Identity.from_environment().token
        start_controller(registry.home.uri, APPLICATION, base.digest, token=token, replace=True)
        rollouts = roll_out(registry, wanted.adapters, wanted.rollout, reason="deploy") if wanted.strategy else []
    except BaseException:  # Ctrl-C too: the record must not outlive a cluster that ends with this command
        if cluster.started_here:
            withdraw(registry, APPLICATION, cluster.address)
        raise
    return tuple(rollout.id for rollout in rollouts)


def _check_record(registry: RegistryApi, cluster: ClusterInfo) -> None:
    recorded = registry.refresh().deployments.get(APPLICATION)
    if recorded is not None:
        check_record(recorded, cluster.address)


def _without_strategy(config: Config) -> Config:
    """Return the configuration for replicas: this command begins its own rollouts, with its token."""
    deployment = config.deployment.model_copy(update={"strategy": None})
    return config.model_copy(update={"deployment": deployment})


@contextlib.contextmanager
def _serve_started(host: str, port: int, cluster: ClusterInfo) -> Iterator[None]:
    """A Serve that listens where the configuration says; while its proxies start, the block may deploy to it.

    Raises:
        InputError: the port is in use.
        ConflictError: a Serve that runs already listens elsewhere.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions

    from llamafarm_ray.serving.ray_serve.state import http_address

    running = http_address()
    if running is not None and running[1] != port:
        raise ConflictError(
            f"Serve listens at port {running[1]} of this cluster already, not at {port}.",
            hint=f"Say --port {running[1]}, or stop it with `serve shutdown`.",
        )
    if running is not None:
        yield
        return
    if cluster.is_local:
        check_port(host, port)
    with ThreadPoolExecutor(max_workers=1) as pool:
        starting = pool.submit(serve.start, http_options=HTTPOptions(host=host, port=port))
        while http_address() is None and not starting.done():
            time.sleep(_LOOK_S)
        if starting.done():
            starting.result()
        yield
        starting.result()


def _run(application: Application, on_wait: Callable[[], object]) -> None:
    """``serve.run`` returns once replicas run; people want to see meanwhile that it lives."""
    from ray import serve

    with ThreadPoolExecutor(max_workers=1) as pool:
        run = pool.submit(serve.run, application, name=APPLICATION, route_prefix="/")
        while not wait([run], timeout=_POLL_S).done:
            on_wait()
        run.result()


def _wait_until_ready(url: str, started: float, on_progress: Callable[[str, float], None] | None) -> tuple[str, ...]:
    from ray import serve

    deadline = started + _READY_S
    status = "DEPLOYING"
    while time.monotonic() < deadline:
        application = serve.status().applications[APPLICATION]
        status = str(application.status.value)
        if on_progress:
            on_progress(status, time.monotonic() - started)
        if status in {"DEPLOY_FAILED", "UNHEALTHY"}:
            raise DeploymentError(f"The deployment failed: {_last_line(application.message, _messages(application))}")
        if status == "RUNNING":
            try:
                response = httpx.get(f"{url}/models", headers=own_key(), timeout=5)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code == httpx.codes.UNAUTHORIZED:
                raise AccessDeniedError("The endpoint refuses the key.", hint="Set LLAMAFARM_TOKEN to yours.")
            if response is not None and response.is_success:
                return tuple(card["id"] for card in response.json()["data"])
        time.sleep(_POLL_S)
    raise DeploymentError(f"The deployment was not ready after {_READY_S:.0f} s; its state is {status}.")


def _messages(application: ApplicationStatusOverview) -> list[str]:
    """Return Serve's message on each deployment; for one whose replicas can't start it is their traceback."""
    return [deployment.message for deployment in application.deployments.values() if deployment.message]


def _last_line(message: str, more: list[str]) -> str:
    """The cause in a traceback is its last line that says something; in what HAProxy says it is the first alert."""
    lines = [line.strip() for text in (message, *more) for line in text.splitlines() if line.strip()]
    alerts = [line.partition(" : ")[2] or line for line in lines if line.startswith("[ALERT]")]
    if alerts:
        return f"HAProxy: {alerts[0]}"
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["no reason was given"])[-1]
