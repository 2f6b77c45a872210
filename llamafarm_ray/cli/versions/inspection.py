"""``llamafarm models describe``, ``history``, ``diff`` and ``trace``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import At, Home, Json, ModelName, Reference, moment
from llamafarm_ray.cli.terminal import ago, facts, local_time, number, print_json, say, size, table

if TYPE_CHECKING:
    from llamafarm_ray.registry import VersionRecord
    from llamafarm_ray.workflows.versions.describe import Description
    from llamafarm_ray.workflows.versions.diff import Changed, Difference

__all__ = ["describe", "diff", "history", "trace"]


def describe(reference: Reference, at: At = None, home: Home = None, as_json: Json = False) -> None:
    """Everything that is known of a version."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.describe import describe as description_of

    found = description_of(open_registry(home), reference, at=moment(at) if at else None)
    if as_json:
        print_json(found.to_dict())
        return
    _show_facts(found)
    _show_model(found)
    _show_numbers(found.record)
    if found.files is None:
        say("Its files are no longer kept.", style="yellow")
        return
    rows = [(file.path, size(file.size_bytes), file.digest.short) for file in found.files]
    table("Files", ("path", "size", "digest"), rows)


def history(
    name: ModelName,
    alias: Annotated[str | None, typer.Option("--alias", help="Only what is about this alias of it.")] = None,
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the history of a model, newest first, with refused attempts."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.governance.history import history as history_of

    found = history_of(open_registry(home), name, alias=alias, at=moment(at) if at else None)
    if as_json:
        print_json([entry.to_dict() for entry in found])
        return
    rows = [
        (
            local_time(entry.time),
            entry.principal,
            entry.action,
            entry.target.removeprefix(name).removeprefix(":"),
            entry.details if entry.details != entry.reason else "",
            entry.reason,
        )
        for entry in found
    ]
    table(f"History of {name}", ("time", "by", "what", "version", "details", "reason"), rows, drop_empty=True)


def diff(
    left: Annotated[str, typer.Argument(metavar="REF", help="One version.")],
    right: Annotated[str, typer.Argument(metavar="REF", help="The other one.")],
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Two versions side by side."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.versions.diff import diff as difference_of

    found = difference_of(open_registry(home), left, right, at=moment(at) if at else None)
    if as_json:
        print_json(found.to_dict())
        return
    columns = _headings(found)
    for title, changed in (("Facts", found.fields), ("Parameters", found.parameters)):
        if changed:
            rows = [(_words(pair.name), _cell(pair.left), _cell(pair.right)) for pair in changed]
            table(title, ("", *columns), rows)
    if found.metrics:
        table("Results", ("", *columns, "difference"), [_metric_row(pair) for pair in found.metrics])

    _show_files(found)


def trace(
    reference: Annotated[str | None, typer.Argument(metavar="REF", help="A version.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="A dataset's name.")] = None,
    document: Annotated[
        str | None, typer.Option("--document", metavar="PATH|DIGEST", help="A source document: what came of it?")
    ] = None,
    direction: Annotated[
        str, typer.Option("--direction", help="down to the sources, up to what came of it, both.")
    ] = "both",
    format_: Annotated[str, typer.Option("--format", help="text, dot (for Graphviz) or json.")] = "text",
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the lineage of documents, datasets, bases, versions and deployments."""
    from llamafarm_ray.registry import lineage, open_registry
    from llamafarm_ray.workflows.versions.trace import trace as trace_from

    _check_format(format_, ("text", "dot", "json"))
    graph = trace_from(
        open_registry(home),
        reference=reference,
        dataset=dataset,
        document=document,
        direction=direction,
        at=moment(at) if at else None,
    )
    if as_json or format_ == "json":
        print_json(lineage.to_json(graph))
    else:
        say(lineage.to_dot(graph) if format_ == "dot" else lineage.to_text(graph))


def _check_format(chosen: str, known: Sequence[str]) -> None:
    from llamafarm_ray.errors import InputError, did_you_mean

    if chosen not in known:
        raise InputError(f"{chosen!r} is no format.", hint=did_you_mean(chosen, known))


def _show_facts(found: Description) -> None:
    record, said = found.record, found.record.registered
    approvals = (f"{alias}: {', '.join(names)}" for alias, names in found.approvals.items())
    facts(
        record.ref,
        [
            ("kind", said.kind),
            ("status", " - ".join(filter(None, (record.status, record.retired or record.deprecated or "")))),
            ("aliases", ", ".join(found.aliases)),
            ("served at", "\n".join(found.deployments)),
            ("registered", f"{local_time(record.time)} ({ago(record.time)}) by {record.principal}"),
            ("digest", said.manifest),
            ("size", size(said.size_bytes)),
            ("base model", _with_digest(said.base_model, said.base_digest)),
            ("derived from", "\n".join(said.derived_from)),
            ("method", said.method),
            ("dataset", _with_digest(said.dataset, said.dataset_digest)),
            ("run", said.run),
            ("configuration", said.config_digest or ""),
            ("code version", said.code_version),
            ("licence", said.license),
            ("restrictions", said.usage_restrictions),
            ("capabilities", ", ".join(said.capabilities)),
            ("domain", said.domain),
            ("description", said.description),
            ("tags", ", ".join(record.tags)),
            ("signed by", "\n".join(record.signers)),
            ("approved for", "\n".join(approvals)),
        ],
    )


def _show_model(found: Description) -> None:
    """Print the facts that were read from the files."""
    model = found.model
    if model is None:
        return
    seen, whole = model.answering, model.whole
    memory = ", ".join(f"{name} {size(num)}" for name, num in model.memory_bytes.items())
    rows: list[tuple[str, object]] = [
        ("format", model.own.inspection.format),
        ("parameters", f"{model.own.inspection.num_parameters:,}"),
    ]
    if seen is not None and whole is not None:
        rows += [
            ("architecture", seen.architecture),
            ("context", f"{seen.context_length:,} tokens" if seen.context_length else ""),
            ("chat template", "yes" if seen.has_chat_template else "no"),
            ("memory of weights", memory if whole is model.own else f"{memory} (with its base)"),
        ]
    card = model.card
    rows += [
        ("served by", ", ".join(model.served_by)),
        ("trained by", ", ".join(model.trained_by)),
        ("languages", ", ".join(model.languages)),
        ("licence in its card", card.get("license", "") if not found.record.license else ""),
        ("task", card.get("pipeline_tag", "")),
        ("intended use", card.get("intended_use", "")),
        ("out of scope", card.get("out_of_scope", "")),
    ]
    facts("Model", rows)
    if whole is None:
        base = found.record.registered.base_model or "that it was trained on"
        say(
            f"Context, chat template and memory are those of the base model {base}, whose files are not in this "
            "registry: `llamafarm models import` adds them.",
            style="yellow",
        )


def _show_numbers(record: VersionRecord) -> None:
    from llamafarm_ray.workflows.versions.metrics import flat_metrics, short_name

    for title, values in (("Parameters", record.registered.parameters), ("Resources", record.registered.resources)):
        facts(title, [(name, _cell(value)) for name, value in _flat(values)])
    facts("Results", [(short_name(name), number(value)) for name, value in flat_metrics(record.metrics).items()])


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield values with dotted names, such as those of a conversion's difference."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _show_files(found: Difference) -> None:
    if not found.are_files_known:
        say("The files of a purged version are no longer kept, so files can't be compared.", style="yellow")
        return
    rows = [(pair.name, _file_change(pair), _file(pair.left), _file(pair.right)) for pair in found.files]
    if rows:
        table("Files", ("", "", *_headings(found)), rows)
    say(f"Files that are the same: {found.num_same_files}.")


def _headings(found: Difference) -> tuple[str, str]:
    """Return the headings of the two sides."""
    name, _, version = found.left.partition(":")
    other, _, other_version = found.right.partition(":")
    return (version, other_version) if name == other else (found.left, found.right)


def _file_change(pair: Changed[tuple[int, str]]) -> str:
    if pair.left is None:
        return "added"
    return "removed" if pair.right is None else "changed"


def _file(value: tuple[int, str] | None) -> str:
    return f"{value[1][7:19]} {size(value[0])}" if value else ""


def _metric_row(pair: Changed[float]) -> tuple[str, ...]:
    from llamafarm_ray.workflows.versions.metrics import short_name

    change = pair.right - pair.left if pair.left is not None and pair.right is not None else None
    return (
        short_name(pair.name),
        number(pair.left),
        number(pair.right),
        f"{change:+.4g}" if change else number(change),
    )


def _with_digest(name: str, digest: str | None) -> str:
    return " ".join(filter(None, (name, f"({digest[7:19]})" if digest else "")))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    text = "" if value is None else str(value)
    return text[7:19] if text.startswith("sha256:") else text
