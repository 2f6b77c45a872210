"""Manifests sent to a Kubernetes cluster by kubectl, which knows the cluster and the user; and their progress there."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llamafarm_ray.errors import ClusterError, DeploymentError, InputError, TrainingError
from llamafarm_ray.workflows.kubernetes.pods import as_yaml

__all__ = ["apply", "watch"]

_POLL_S = 5.0
_KUBECTL_S = 60.0
_FAILURES = 5
"""Questions in a row that may fail: a control plane that is upgraded does not answer for a while."""


def apply(manifests: Sequence[dict[str, Any]]) -> None:
    """Send manifests to the cluster of kubectl's current context.

    Raises:
        InputError: there is no kubectl, or the cluster does not take them.
    """
    done = _kubectl("apply", "-f", "-", given=as_yaml(*manifests))
    if done.returncode:
        raise InputError(
            f"kubectl did not take the manifest: {_last(done.stderr)}.",
            hint="Does `kubectl get rayservices,rayjobs` work, and is KubeRay's operator installed?",
        )


def watch(manifest: dict[str, Any], *, timeout_s: float, on_state: Callable[[str, float], None]) -> str:
    """Return the last state of a RayService or RayJob, once it is up or done.

    Args:
        manifest: it, as it was applied.
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
    for status in _statuses(kind.lower(), name):
        state, ended, said = _state(kind, status)
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


def _statuses(kind: str, name: str) -> Iterator[dict[str, object]]:
    """Yield the status of a resource now and every few seconds."""
    failed = 0
    while True:
        done = _kubectl("get", kind, name, "-o", "json")
        if done.returncode == 0:
            failed = 0
            yield json.loads(done.stdout).get("status") or {}
        else:
            failed += 1
            if failed >= _FAILURES:
                raise ClusterError(f"kubectl can't read {kind} {name}: {_last(done.stderr)}.")
        time.sleep(_POLL_S)


def _state(kind: str, status: dict[str, Any]) -> tuple[str, bool | None, str]:
    """Return a status in a word, True or False once it has succeeded or failed, and what is said of it."""
    if kind == "RayJob":
        state = status.get("jobDeploymentStatus") or "New"
        succeeded = status.get("jobStatus") == "SUCCEEDED"
        ended = {"Complete": succeeded, "Failed": False, "ValidationFailed": False}.get(state)
        said = status.get("message") or status.get("reason") or ""
        return f"{state} {status.get('jobStatus', '')}".strip(), ended, said
    ready: dict[str, Any] = next((one for one in status.get("conditions", ()) if one.get("type") == "Ready"), {})
    applications = status.get("activeServiceStatus", {}).get("applicationStatuses", {})
    failed = [one.get("message", "") for one in applications.values() if one.get("status") == "DEPLOY_FAILED"]
    state = "Running" if ready.get("status") == "True" else ready.get("reason") or "Starting"
    return state, True if state == "Running" else False if failed else None, " ".join(failed)


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
