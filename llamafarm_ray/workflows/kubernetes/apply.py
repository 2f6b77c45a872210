"""Apply manifests to a Kubernetes cluster by kubectl, with its cluster and user, and follow their progress."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from llamafarm_ray.errors import ClusterError, ConflictError, DeploymentError, InputError, TrainingError
from llamafarm_ray.workflows.kubernetes.pods import DIGEST, as_yaml
from llamafarm_ray.workflows.kubernetes.resources import Resource, ServiceStatus, Status

__all__ = ["apply", "watch"]

_POLL_S = 5.0
_KUBECTL_S = 60.0
_FAILURES = 5
"""Questions in a row that may fail: a control plane that is upgraded does not answer for a while."""


def apply(manifests: Sequence[Resource]) -> None:
    """Send manifests to the cluster of kubectl's current context. A RayJob of that name that has ended is removed.

    Raises:
        InputError: there is no kubectl, or the cluster does not take them.
        ConflictError: a RayJob of the same name runs, from other manifests.
    """
    for manifest in manifests:
        if manifest["kind"] == "RayJob":
            _make_way(manifest)
    done = _kubectl("apply", "-f", "-", given=as_yaml(*manifests))
    if done.returncode:
        raise InputError(
            f"kubectl did not take the manifest: {_last(done.stderr)}.",
            hint="Does `kubectl get rayservices,rayjobs` work, and is KubeRay's operator installed?",
        )


def _make_way(manifest: Resource) -> None:
    """Remove a RayJob that has ended, since KubeRay never runs one again; refuse to change one that runs."""
    name = manifest["metadata"]["name"]
    done = _kubectl("get", "rayjob", name, "-o", "json", "--ignore-not-found")
    if done.returncode or not done.stdout.strip():
        return  # where kubectl can't read, it can't write, and says so then
    found: Resource = json.loads(done.stdout)
    if _state("RayJob", found)[1] is None:
        if _digest(found) != _digest(manifest):
            raise ConflictError(
                f"RayJob {name} runs with another configuration.",
                hint=f"Wait for its end, stop it (kubectl delete rayjob {name}), or give this training another name.",
            )
        return
    done = _kubectl("delete", "rayjob", name)
    if done.returncode:
        raise InputError(
            f"kubectl can't remove RayJob {name}, which has ended: {_last(done.stderr)}.",
            hint=f"Remove it with `kubectl delete rayjob {name}`, or give this training another name.",
        )


def _digest(resource: Resource) -> str | None:
    annotations = resource["metadata"].get("annotations") or {}
    return annotations.get(DIGEST)


def watch(manifest: Resource, *, timeout_s: float, on_state: Callable[[str, float], None]) -> str:
    """Return the last state of a RayService or RayJob, once it is up or done.

    Args:
        timeout_s: the longest that it may take.
        on_state: called with its state and the seconds since the call.

    Raises:
        DeploymentError: a RayService does not come up.
        TrainingError: a RayJob failed.
        ClusterError: the cluster does not answer any more.
    """
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    error = DeploymentError if kind == "RayService" else TrainingError
    began = time.monotonic()
    state = ""
    for found in _resources(kind.lower(), name):
        state, ended, said = _state(kind, found)
        on_state(state, time.monotonic() - began)
        if ended is not None:
            if ended:
                return state
            raise error(f"{kind} {name} failed: {said or state}.", hint=f"kubectl describe {kind.lower()} {name}")
        if time.monotonic() - began > timeout_s:
            break
    raise error(
        f"{kind} {name} is {state or 'without a state'} after {timeout_s:.0f} s.",
        hint=f"It goes on: kubectl get {kind.lower()} {name} --watch",
    )


def _resources(kind: str, name: str) -> Iterator[Resource]:
    """Yield a resource, with its status, now and every few seconds."""
    failed = 0
    while True:
        done = _kubectl("get", kind, name, "-o", "json")
        if done.returncode == 0:
            failed = 0
            yield json.loads(done.stdout)
        else:
            failed += 1
            if failed >= _FAILURES:
                raise ClusterError(f"kubectl can't read {kind} {name}: {_last(done.stderr)}.")
        time.sleep(_POLL_S)


def _state(kind: str, resource: Resource) -> tuple[str, bool | None, str]:
    """Return a resource's status in a word, True or False once it has succeeded or failed, and its message."""
    status: Status = resource.get("status") or {}
    if kind == "RayJob":
        state = status.get("jobDeploymentStatus") or "New"
        succeeded = status.get("jobStatus") == "SUCCEEDED"
        ended = {"Complete": succeeded, "Failed": False, "ValidationFailed": False}.get(state)
        said = status.get("message") or status.get("reason") or ""
        return f"{state} {status.get('jobStatus', '')}".strip(), ended, said
    refused = next((one for one in status.get("conditions") or () if one.get("reason") == "ValidationFailed"), None)
    if refused is not None:
        is_of_this = refused.get("observedGeneration") == resource.get("metadata", {}).get("generation")
        return "ValidationFailed", False if is_of_this else None, refused.get("message", "")
    if status.get("observedGeneration", 0) < resource.get("metadata", {}).get("generation", 0):
        return "Applied", None, ""  # the status is that of what was there before
    return _service_state(status)


def _service_state(status: Status) -> tuple[str, bool | None, str]:
    """Return `_state` of a RayService whose operator has seen the manifest.

    It is up when the applications run on the cluster that answers, and no other cluster is to take its place.
    """
    conditions = {one.get("type"): one for one in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    pending: ServiceStatus = status.get("pendingServiceStatus") or {}
    active: ServiceStatus = status.get("activeServiceStatus") or {}
    applications = [one for service in (active, pending) for one in (service.get("applicationStatuses") or {}).values()]
    failed = [one.get("message", "") for one in applications if one.get("status") == "DEPLOY_FAILED"]
    if failed:
        return ready.get("reason") or "Starting", False, " ".join(failed)
    is_changing = bool(pending.get("rayClusterName")) or conditions.get("UpgradeInProgress", {}).get("status") == "True"
    runs = all(one.get("status", "RUNNING") == "RUNNING" for one in applications)
    if ready.get("status") == "True" and runs and not is_changing:
        return "Running", True, ""
    if ready.get("status") == "True":
        return "Upgrading", None, ""
    return ready.get("reason") or "Starting", None, ""


def _kubectl(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", *arguments]
    try:
        return subprocess.run(  # a list of words, no shell
            command, input=given, capture_output=True, text=True, timeout=_KUBECTL_S, check=False
        )
    except FileNotFoundError:
        raise InputError(
            "There is no kubectl on this machine's path.",
            hint="Install it, or leave out --apply and take the manifest to where it is.",
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_KUBECTL_S:.0f} s")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:500] if lines else "it gave no reason"
