"""Deployments on record in the registry, and moves of an alias under traffic without a lost request."""

from __future__ import annotations

import time
from collections.abc import Iterable

import httpx

from llamafarm_ray.errors import DeploymentError, InputError, NotFoundError
from llamafarm_ray.registry import DeploymentRecorded, RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.registry.state.records import find
from llamafarm_ray.serving.routing.resolution import is_served
from llamafarm_ray.types import Digest, ModelRef
from llamafarm_ray.workflows.clusters.cluster import quiet

__all__ = [
    "APPLICATION",
    "confirm",
    "deployment_of",
    "deployments_for",
    "load",
    "own_key",
    "running_of",
    "serving",
    "swap_adapter",
]

APPLICATION = "llamafarm"
"""The Serve application of `llamafarm_ray.workflows.deployments.deploy.deploy`."""
_CONFIRM_S = 15.0
_POLL_S = 0.25
_NOT_TOLD = {"status 401", "status 403", "status 429"}
"""Failures that another attempt does not change."""


def deployment_of(registry: RegistryApi, application: str | None = None) -> DeploymentRecorded:
    """The recorded deployment of an application; by default the only one, or of several the one that `deploy` makes.

    Raises:
        NotFoundError: nothing is deployed, or not that.
        InputError: several are, by ``serve deploy``, and nothing says which is meant.
    """
    found = _recorded(registry)
    if application is not None:
        return find({deployment.application: deployment for deployment in found}, application, "deployment")
    if len(found) > 1 and found[0].application != APPLICATION:
        names = ", ".join(f"{deployment.application} at {deployment.url}" for deployment in found)
        hint = "Say which one: `chat` takes its --url, `undeploy` its --application."
        raise InputError(f"Several applications are deployed: {names}.", hint=hint)
    return found[0]


def deployments_for(registry: RegistryApi, reference: str) -> list[DeploymentRecorded]:
    """The recorded deployments that can serve a version; one at least.

    Args:
        reference: the version, ``name`` (its highest) or ``name:version``.

    Raises:
        NotFoundError: there is no such version, or nothing that could serve it.
    """
    recorded = _recorded(registry)
    return _some_serving(_version_to_swap_in(registry, reference), recorded, registry)


def serving(
    record: VersionRecord, recorded: Iterable[DeploymentRecorded], registry: RegistryApi
) -> list[DeploymentRecorded]:
    """Those of some recorded deployments that can serve a version."""
    return [one for one in recorded if is_served(record, registry.state, Digest(one.base_digest))]


def _recorded(registry: RegistryApi) -> list[DeploymentRecorded]:
    found = registry.refresh().deployments
    if not found:
        raise NotFoundError("Nothing is deployed.", hint="`llamafarm models deploy` does that.")
    return [found[name] for name in sorted(found, key=lambda name: (name != APPLICATION, name))]


def _some_serving(
    record: VersionRecord, recorded: list[DeploymentRecorded], registry: RegistryApi
) -> list[DeploymentRecorded]:
    found = serving(record, recorded, registry)
    if not found:
        bases = " and ".join(repr(one.base_model) for one in recorded)
        raise NotFoundError(
            f"{record.ref} is for {record.registered.base_model!r}, and {bases} is deployed.",
            hint="Deploy its base model first.",
        )
    return found


def _version_to_swap_in(registry: RegistryApi, reference: str) -> VersionRecord:
    ref = ModelRef.parse(reference)
    return registry.resolve(ref) if ref.version or ref.alias else registry.latest(ref.name)


def swap_adapter(registry: RegistryApi, reference: str, alias: str) -> VersionRecord:
    """Move an alias to a version in two phases: every replica loads it, then the alias moves.

    No request fails or waits for a load meanwhile. Returns once the endpoints answer with the new version. This
    process must be connected to the deployments' cluster; those of another one load it when they are asked for it.

    Args:
        registry: the registry that the deployments watch.
        reference: the version, ``name`` (its highest) or ``name:version``.
        alias: the alias of the same model that shall point at it, such as ``production``.

    Raises:
        NotFoundError: there is no such version, or nothing that could serve it.
        DeploymentError: a replica could not load it (the alias then stays), or an endpoint does not follow.
    """
    record = _version_to_swap_in(registry, reference)
    name, found = record.registered.model, _some_serving(record, _recorded(registry), registry)
    namespace = ModelRef(name).namespace
    registry.allow(Action.MOVE_ALIAS, namespace, target=f"{name}@{alias}")  # before replicas are kept busy
    running = running_of(found, registry)  # the record follows within a minute
    if not running:
        names = " and ".join(one.application for one in found)
        raise DeploymentError(
            f"{record.ref} could not be loaded: no replica of {names} runs on this cluster.",
            hint="`llamafarm models status` shows what runs where.",
        )
    urls = load(running, record)
    registry.promote(record.ref, alias, reason="swap-adapter")
    confirm(urls, f"{name}@{alias}", record.ref)
    return record


def running_of(found: Iterable[DeploymentRecorded], registry: RegistryApi) -> list[DeploymentRecorded]:
    """Those of some deployments that run on the connected cluster, or are scaled to zero there, with this registry.

    A record can be older than what runs at its address, and that can be another registry's by the same name.
    """
    from llamafarm_ray.serving.ray_serve.state import home_of, is_serving

    return [one for one in found if home_of(one.application) == registry.home.uri and is_serving(one.application)]


def load(running: Iterable[DeploymentRecorded], record: VersionRecord) -> list[str]:
    """Load a version on every replica of deployments that run on the connected cluster.

    Returns:
        the URLs of those that are not scaled to zero: asking one that is would start it.

    Raises:
        DeploymentError: a replica could not load it.
        UserError: an engine refuses it.
    """
    from llamafarm_ray.serving.ray_serve.replicas import load_everywhere
    from llamafarm_ray.serving.ray_serve.state import url_of

    quiet()
    awake = [one for one in running if load_everywhere(one.application, record.ref)]
    return [url_of(one.application) or one.url for one in awake]


def confirm(urls: Iterable[str], model: str, expected: str) -> None:
    """See that endpoints answer for a name with a version, once the alias has moved.

    Args:
        model: model of a request, ``name@alias``.
        expected: the version, ``name:version``.

    Raises:
        DeploymentError: one answers with another version, or doesn't answer, after 15 seconds.
    """
    for url in urls:
        _confirm(url, model, expected)


def _confirm(url: str, model: str, expected: str) -> None:
    """Ask the endpoint, by a call that generates nothing, which version answers now."""
    deadline = time.monotonic() + _CONFIRM_S
    answered = ""
    while time.monotonic() < deadline:
        try:
            response = httpx.post(
                f"{url.removesuffix('/v1')}/tokenize",
                json={"model": model, "prompt": "?"},
                headers=own_key(),
                timeout=5,
            )
            answered = response.headers.get("x-llamafarm-model", f"status {response.status_code}")
        except httpx.TransportError as error:
            answered = f"nothing ({error})"
        if answered == expected:
            return
        if answered in _NOT_TOLD:
            break
        time.sleep(_POLL_S)
    raise DeploymentError(
        f"{model} points at {expected} in the registry, but the endpoint still answers with {answered}.",
        hint="Does the endpoint use the same home?",
    )


def own_key() -> dict[str, str]:
    """Return the header with the caller's key: an endpoint's keys are the registry's tokens."""
    token = Identity.from_environment().token
    return {"Authorization": f"Bearer {token}"} if token else {}
