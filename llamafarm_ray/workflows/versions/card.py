"""Model cards: Markdown with a YAML head, from the registry and the results that a version has.

The head follows the Hugging Face Hub's (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from llamafarm_ray.evaluation.comparison import difference_text
from llamafarm_ray.evaluation.result import RESULTS
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.policy import flat_metrics
from llamafarm_ray.types import ModelKind

__all__ = ["model_card"]

_COUNTS: Final = frozenset({"num_examples", "num_skipped"})


def model_card(registry: RegistryApi, reference: str) -> str:
    """Return the card of a version.

    Raises:
        NotFoundError: there is no such version.
    """
    record = registry.resolve(reference)
    head = yaml.safe_dump(_head(record), sort_keys=False, allow_unicode=True)
    body = "\n\n".join(part for part in _parts(registry, record) if part)
    return f"---\n{head}---\n\n{body}\n"


def _head(record: VersionRecord) -> dict[str, object]:
    registered = record.registered
    found: dict[str, object] = {
        "license": record.license.lower() or "unknown",
        "base_model": registered.base_model or None,
        "library_name": "peft" if registered.kind is ModelKind.ADAPTER else "transformers",
        "tags": sorted({*record.tags, registered.kind.value}),
        "datasets": [registered.dataset] if registered.dataset else None,
        "model-index": _index(record),
    }
    return {name: value for name, value in found.items() if value}


def _index(record: VersionRecord) -> list[dict[str, object]]:
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": name, "type": name},
            "metrics": [
                {"type": metric, "value": value}
                for metric, value in scores.items()
                if metric not in _COUNTS and _is_number(value)
            ],
        }
        for name, scores in _benchmarks(record).items()
    ]
    return [{"name": record.ref, "results": results}] if results else []


def _parts(registry: RegistryApi, record: VersionRecord) -> Iterator[str]:
    registered = record.registered
    yield f"# {_plain(record.ref)}"
    if record.deprecated is not None:
        yield f"**Deprecated:** {_plain(record.deprecated)}"
    if record.retired is not None:
        yield f"**Retired:** {_plain(record.retired)}"
    if registered.description:
        yield _plain(registered.description)
    facts = {
        "kind": registered.kind.value,
        "domain": registered.domain,
        "for": ", ".join(registered.capabilities),
        "base model": registered.base_model,
        "base digest": registered.base_digest,
        "method": registered.method,
        "dataset": registered.dataset,
        "dataset digest": registered.dataset_digest,
        "config digest": registered.config_digest,
        "code": registered.code_version,
        "registered": f"{record.time:%Y-%m-%d %H:%M} UTC by {record.principal}",
        "digest": registered.manifest,
        "aliases": ", ".join(registry.state.models[registered.model].pointing_at(registered.version)),
        "licence": record.license,
        "signed": "yes" if record.signatures else "no",
    }
    yield _table(("", ""), [(name, str(value)) for name, value in facts.items() if value])
    yield _evaluation(record)
    yield _section("Risk", _risk(record))
    yield _section("Usage restrictions", _plain(registered.usage_restrictions))
    yield _section("Training parameters", _table(("parameter", "value"), _pairs(registered.parameters)))
    yield _section("Lineage", f"`llamafarm models trace {record.ref}` lists the documents that it was trained on.")


def _evaluation(record: VersionRecord) -> str:
    rows = [
        (
            name,
            metric,
            f"{value:.4g}",
            _baseline(scores, metric),
            str(scores.get("improvement", "")) if not number else "",
            difference_text(_comparisons(scores), metric),
        )
        for name, scores in _benchmarks(record).items()
        for number, (metric, value) in enumerate(
            (key, one) for key, one in scores.items() if key not in _COUNTS and _is_number(one)
        )
    ]
    results = record.metrics.get(RESULTS)
    others = flat_metrics({name: value for name, value in record.metrics.items() if name != RESULTS})
    for group in ("rag_integration", "production_metrics"):
        measured = results.get(group) if isinstance(results, Mapping) else None
        others |= {f"{group}.{name}": value for name, value in flat_metrics(measured or {}).items()}
    if not rows and not others:
        return "## Evaluation\n\nNothing was measured."
    parts = ["## Evaluation"]
    if isinstance(results, Mapping) and results.get("timestamp"):
        parts.append(f"Measured {_plain(str(results['timestamp']))}.")
    if rows:
        parts.append(_table(("benchmark", "measure", "value", "baseline", "change", "difference"), rows))
    if others:
        parts.append(_table(("measure", "value"), [(name, f"{value:.4g}") for name, value in sorted(others.items())]))
    return "\n\n".join(parts)


def _risk(record: VersionRecord) -> str:
    """Return a line for each risk that was measured: its first score with interval, method and sample."""
    rows = []
    for name, scores in _benchmarks(record, "risk").items():
        value = next(((key, one) for key, one in scores.items() if key not in _COUNTS and _is_number(one)), None)
        if value is None:
            rows.append((name, "not measured", "", "", "", str(scores.get("reason", ""))))
            continue
        ends = (scores.get("intervals") or {}).get(value[0])
        interval = f"{ends[0]:.3g} to {ends[1]:.3g}" if ends else ""
        sample = f"{scores.get('sample', '')}, {scores.get('num_examples', '')} measured"
        method = str(scores.get("method", ""))
        rows.append((name, f"{value[0]} {value[1]:.3g}", interval, _baseline(scores, value[0]), sample, method))
    return _table(("risk", "score", "95 % interval", "baseline", "sample", "method"), rows)


def _benchmarks(record: VersionRecord, section: str = "benchmarks") -> Mapping[str, Mapping[str, Any]]:
    results = record.metrics.get(RESULTS)
    found = results.get(section) if isinstance(results, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {str(name): scores for name, scores in found.items() if isinstance(scores, Mapping)}


def _baseline(scores: Mapping[str, object], metric: str) -> str:
    before = scores.get("baseline")
    value = before.get(metric) if isinstance(before, Mapping) else None
    return f"{value:.4g}" if _is_number(value) else ""


def _comparisons(scores: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return the comparisons of a benchmark's metrics that have the form of `evaluate`'s."""
    found = scores.get("comparison")
    known = found.items() if isinstance(found, Mapping) else ()
    return {key: one for key, one in known if isinstance(one, Mapping) and {"difference", "verdict"} <= one.keys()}


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _pairs(values: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in sorted(values.items())]


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Return a text on one line that can't open a tag."""
    return " ".join(text.split()).replace("<", "&lt;")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
