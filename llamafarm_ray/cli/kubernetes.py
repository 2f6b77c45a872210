"""Manifests of `--target kubernetes`: printed, or sent with `--apply` and watched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.terminal import print_json, say, stages
from llamafarm_ray.errors import InputError

if TYPE_CHECKING:
    from llamafarm_ray.workflows.kubernetes.resources import Resource

__all__ = ["Apply", "Target", "check_options", "show_or_apply"]


class Target(StrEnum):
    """Place of a training."""

    RAY = "ray"
    KUBERNETES = "kubernetes"


Apply = Annotated[
    bool, typer.Option("--apply", help="With --target kubernetes: send the manifest by kubectl, and watch it.")
]
_READY_S = 3600.0
_DONE_S = 14 * 86_400.0


def check_options(*, is_kubernetes: bool, apply: bool, address: str | None, no_wait: bool) -> None:
    """Refuse options that mean nothing for the target.

    Raises:
        InputError: there is one.
    """
    if is_kubernetes and (address or no_wait):
        raise InputError(
            "--address and --no-wait are for Ray clusters; for Kubernetes a manifest is printed.",
            hint="Leave them out, and pipe it into `kubectl apply -f -`, or say --apply.",
        )
    if apply and not is_kubernetes:
        raise InputError("--apply is for manifests.", hint="Say --target kubernetes, too.")


def show_or_apply(manifests: Sequence[Resource], *, apply: bool, as_json: bool) -> None:
    """Print manifests as `kubectl apply -f -` takes them; or send them, and wait for what becomes of the last one."""
    from llamafarm_ray.workflows.kubernetes import as_yaml
    from llamafarm_ray.workflows.kubernetes.apply import apply as send
    from llamafarm_ray.workflows.kubernetes.apply import watch

    if not apply:
        if not as_json:
            sys.stdout.write(as_yaml(*manifests))
        elif len(manifests) == 1:
            print_json(manifests[0])
        else:
            print_json({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        return
    last = manifests[-1]
    kind, name = last["kind"], last["metadata"]["name"]
    timeout_s = _READY_S if kind == "RayService" else _DONE_S
    send(manifests)
    with stages(quiet=as_json) as progress:
        progress.warn(f"{kind} {name} is applied. Ctrl-C leaves it running.")
        state = watch(
            last,
            timeout_s=timeout_s,
            on_state=lambda state, seconds: progress("kubernetes", min(seconds / timeout_s, 0.99), state),
        )
    if as_json:
        print_json({"kind": kind, "name": name, "state": state})
    else:
        say(f"{kind} {name}: {state}.")
