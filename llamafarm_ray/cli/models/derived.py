"""Show a model that a verb made from others, and register it on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.cli.terminal import errors, print_json, say

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from llamafarm_ray.registry import RegistryApi, VersionRecord

__all__ = ["register_derived", "show_derived"]


def register_derived(
    registry: RegistryApi, folder: Path, name: str | None, *, base_model: str | None = None
) -> VersionRecord | None:
    """Register a new model.

    Args:
        name: name to register it under; None: it is not registered.
        base_model: its base, where its own record names none.

    Returns:
        the new version, if it was registered.

    Raises:
        UserError: the registry refuses it.
    """
    from llamafarm_ray.workflows.versions.register import Registration, register, stated

    return register(registry, Registration(folder, name=name, facts=stated(base_model=base_model))) if name else None


def show_derived(
    made: DataclassInstance,
    record: VersionRecord | None,
    show: Callable[[], None],
    *,
    also: Sequence[VersionRecord] = (),
    notes: Iterable[str] = (),
    as_json: bool,
) -> None:
    """Print a new model, and its version if it has one.

    Args:
        made: facts of the model, as ``--json`` prints them.
        show: prints the facts for people.
        notes: remarks, printed on standard error.
        as_json: print for programs.
    """
    for note in notes:
        errors.line(note)
    if as_json:
        others = {"also_registered": [one.ref for one in also]} if also else {}
        print_json({**asdict(made), "version": record.ref if record else None, **others})
        return
    show()
    for one in filter(None, (record, *also)):
        say(f"Registered {one.ref} ({one.registered.kind}).")
