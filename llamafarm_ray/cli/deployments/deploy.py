"""``llamafarm models deploy``."""

from __future__ import annotations

import contextlib
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.jobs import ran_as_job
from llamafarm_ray.cli.kubernetes import Apply, check_options, show_or_apply
from llamafarm_ray.cli.options import (
    Address,
    ConfigFile,
    DryRun,
    Home,
    Json,
    NoWait,
    Overrides,
    configuration,
    show_resolved,
)
from llamafarm_ray.cli.terminal import begin, console, errors, print_json, say, stages, table

if TYPE_CHECKING:
    from llamafarm_ray.config import Config
    from llamafarm_ray.workflows.deployments.deploy import Deployment

__all__ = ["command"]

_LOOK_S = 5.0
_MOST_NAMES = 12
"""Names that are printed, so that the address stays on the screen."""
_SETTLED_S = 10.0
"""Seconds that this Ray stays after `undeploy` elsewhere, which takes the deployment off the record through it."""


def command(
    model: Annotated[
        str | None, typer.Option("--model", help="Base model, or an adapter's folder or version to serve.")
    ] = None,
    adapter: Annotated[list[str] | None, typer.Option("--adapter", help="Adapter to load at once.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="local, ray or kubernetes: print a manifest.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", help="Copies of the model that answer.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all, which asks for keys.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="TCP port to listen on.")] = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    home: Home = None,
    address: Address = None,
    no_wait: NoWait = False,
    apply: Apply = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve a base model and its adapters over HTTP. Without a cluster it serves until Ctrl-C."""
    flags = {
        "deployment.adapters": list(adapter) if adapter else None,
        "deployment.target": target,
        "deployment.replicas": replicas,
        "deployment.host": host,
        "deployment.port": port,
    }
    config = configuration(config_file, overrides, flags, home=home, address=address)
    if dry_run:
        show_resolved(config)
        return
    is_kubernetes = config.deployment.target == "kubernetes"
    check_options(is_kubernetes=is_kubernetes, apply=apply, address=address, no_wait=no_wait)
    if is_kubernetes:
        from llamafarm_ray.registry import open_registry
        from llamafarm_ray.workflows.kubernetes import ray_service

        show_or_apply([ray_service(config, open_registry(config.home), model)], apply=apply, as_json=as_json)
        return
    if ran_as_job("deploy", config, inputs={"--model": model}, no_wait=no_wait, as_json=as_json):
        return
    _deploy(config, model, as_json=as_json)


def _deploy(config: Config, model: str | None, *, as_json: bool) -> None:
    """Serve on a Ray that this process connects to; where that Ray is this process's own, until Ctrl-C."""
    begin("Opening the model", quiet=as_json)
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.serving.engines.choice import choose_engine
    from llamafarm_ray.workflows.clusters.cluster import connect, starts_own_ray
    from llamafarm_ray.workflows.deployments.deploy import check_deployment, check_port, deploy, with_model
    from llamafarm_ray.workflows.deployments.undeploy import undeploy

    if starts_own_ray(config.cluster.address):
        check_port(config.deployment.host, config.deployment.port)
    registry = open_registry(config.home)
    config = with_model(config, registry, model)
    base = check_deployment(config, registry)
    on_gpu = config.deployment.resources.gpu is not None
    engine = choose_engine(config.deployment.engine, base, config.deployment.adapters, registry, on_gpu=on_gpu)
    module = f"llamafarm_ray.serving.{_needed(engine, checks_options=bool(config.deployment.engine_kwargs))}"
    with connect(
        config.cluster.address, on_start=partial(begin, quiet=as_json), with_dashboard=True, meanwhile=module
    ) as cluster:
        with stages(quiet=as_json) as progress:
            deployment = deploy(
                config,
                registry,
                cluster,
                on_progress=lambda state, seconds: progress("deploy", min(seconds / 60, 0.99), state.lower()),
            )
        _show(deployment, as_json=as_json)
        if cluster.started_here:
            if not as_json:
                console.print(f"Dashboard: {cluster.dashboard_url}   Stop with Ctrl-C.")
            _wait_until_stopped()
            if not as_json:
                console.print("Stopping.")
            undeploy(registry, cluster)


def _show(deployment: Deployment, *, as_json: bool) -> None:
    """Print the address, the names that requests may ask for, and the rollouts that began."""
    if as_json:
        result = {"url": deployment.url, "base_model": deployment.base_model, "models": list(deployment.models)}
        print_json({**result, "rollouts": list(deployment.rollouts)} if deployment.rollouts else result)
        return
    shown = deployment.models[:_MOST_NAMES]
    table("Models", ("a request's model",), [(name,) for name in shown])
    if num_more := len(deployment.models) - len(shown):
        say(f"and {num_more} more; GET {deployment.url}/models lists them all.")
    say(f"Serving at {deployment.url} (ready in {deployment.seconds:.0f} s)")
    for rollout in deployment.rollouts:
        say(f"Rolling out: {rollout}. `llamafarm models rollout status --watch` shows how it goes.")


def _needed(engine: str, *, checks_options: bool) -> str:
    """Return the module of `serving` that this process imports while Ray starts."""
    if engine != "vllm":
        return "deployment.engine_replica"
    return "engines.vllm.ray_llm" if checks_options else "deployment.vllm_replica"


def _wait_until_stopped() -> None:
    """Sleep until SIGINT or SIGTERM, or until `undeploy` stops the application."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_look_out, args=(stop,), name="llamafarm-deployed", daemon=True).start()
    stop.wait()


def _look_out(stop: threading.Event) -> None:
    """Say stop once Serve has the application no more; in a thread, since Serve may hang and Ctrl-C must not."""
    from ray.exceptions import RayError

    from llamafarm_ray.serving.ray_serve.state import is_deployed
    from llamafarm_ray.workflows.deployments.deployed import APPLICATION

    while not stop.wait(_LOOK_S):
        with contextlib.suppress(RayError):  # Serve's controller is being started again
            if not is_deployed(APPLICATION) and not stop.is_set():
                errors.line("It was stopped from elsewhere.")
                stop.wait(_SETTLED_S)
                stop.set()
