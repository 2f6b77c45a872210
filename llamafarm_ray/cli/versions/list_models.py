"""``llamafarm models list``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import At, Home, Json, moment
from llamafarm_ray.cli.terminal import ago, local_time, number, print_json, say, table

if TYPE_CHECKING:
    from llamafarm_ray.workflows.versions.list_models import ListedVersion

__all__ = ["command"]

_COLUMNS = ("version", "status", "kind", "base model", "dataset", "result", "registered")


def command(
    type_: Annotated[str | None, typer.Option("--type", help="adapters, bases, merged, ...")] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="CONDITIONS",
            help="domain=medical, 'accuracy>0.8', 'kind=lora license=apache-2.0 context>=8192'; repeatable.",
        ),
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Only the models named NAMESPACE/...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Retired versions too.")] = False,
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the registered versions."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.list_models import list_versions

    rows = list_versions(
        open_registry(home),
        kind=type_,
        filters=filter_ or [],
        namespace=namespace,
        include_ended=all_,
        at=moment(at) if at else None,
    )
    if as_json:
        from llamafarm_ray.workflows.versions.describe import as_dict

        print_json([as_dict(row.record, row.aliases) for row in rows])
        return
    if not rows:
        say("No version matches. `llamafarm models register` adds one, and --all shows the retired ones too.")
        return
    when = f" at {local_time(moment(at))}" if at else ""
    table(f"Models{when}", _COLUMNS, [_cells(row) for row in rows], drop_empty=True, whole=("result", "registered"))


def _cells(row: ListedVersion) -> tuple[str, ...]:
    record, facts = row.record, row.record.registered
    return (
        "\n".join((record.ref, *(f"  @{alias}" for alias in row.aliases))),
        record.status if record.status != "active" else "",
        "\n".join(filter(None, (facts.kind, facts.method))),
        facts.base_model.rpartition("/")[2],
        facts.dataset,
        "\n".join(_result(name, value) for name, value in row.shown_metrics),
        f"{ago(record.time)}\n{local_time(record.time)}",
    )


def _result(name: str, value: float) -> str:
    from llamafarm_ray.workflows.versions.metrics import short_name

    benchmark, dot, metric = short_name(name).rpartition(".")
    return f"{benchmark}{dot and chr(10)}{metric} {number(value)}"
