"""Parent adapters of a new model: found by folder or name, with their base and their origin."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters import read_adapter_config
from llamafarm_ray.registry import BaseModel, RegistryApi
from llamafarm_ray.storage import Manifest
from llamafarm_ray.storage.copying import check_output, put_in_place
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.inspection.base import usable_base
from llamafarm_ray.workflows.versions.register import base_reference, read_run_record

__all__ = ["Parent", "find_parent", "new_folder", "write_record"]


@dataclass(frozen=True, slots=True)
class Parent:
    """An adapter that something is made from.

    Attributes:
        reference: as it was asked for, or the version it turned out to be.
        digest: of the manifest of its files, as the registry would have it.
        method: training method; empty if unknown.
        lineage: known facts of its data and configuration: ``dataset``, ``dataset_digest``, ``config_digest``.
    """

    reference: str
    folder: Path
    digest: str
    base: BaseModel
    method: str
    lineage: dict[str, object]


def find_parent(registry: RegistryApi, reference: str, base_model: str | None = None) -> Parent:
    """The adapter of that folder or name.

    Args:
        registry: registry for names.
        reference: an adapter's folder, or ``name``, ``name:1.2.0``, ``name@production``.
        base_model: place of its base, if not the one in its record.

    Raises:
        InputError: it is no adapter, or ``base_model`` is not the base that it was trained on.
        NotFoundError: there is no such version or base.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        read_adapter_config(folder)
        record = read_run_record(folder)
        lineage = dict(record.get("lineage", {}))
        base = usable_base(base_model or lineage.get("base_model") or base_reference(folder), registry)
        parent = Parent(
            reference, folder, Manifest.of_folder(folder).digest, base, str(record.get("method", "")), lineage
        )
        trained_on = lineage.get("base_digest")
    else:
        version = registry.resolve(reference)
        facts = version.registered
        if facts.kind is not ModelKind.ADAPTER:
            raise InputError(f"{version.ref} is {facts.kind}, not an adapter.", hint="Name an adapter.")
        base = usable_base(base_model or facts.base_model, registry)
        lineage = {key: getattr(facts, key) for key in ("dataset", "dataset_digest", "config_digest")}
        parent = Parent(version.ref, registry.pull(version.ref), facts.manifest, base, facts.method, lineage)
        trained_on = facts.base_digest
    if trained_on and trained_on != base.digest:
        raise InputError(
            f"{base.reference} is not the base {parent.reference} was trained on: their digests differ.",
            hint="Say which folder it was trained on with --base-model.",
        )
    return parent


@contextmanager
def new_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder that becomes ``output`` when the block ends well, and leaves nothing if it doesn't.

    Raises:
        ConflictError: ``output`` is there already.
    """
    check_output(output, overwrite=overwrite)
    partial = output.absolute().with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        yield partial
        put_in_place(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_record(folder: Path, *, method: str, made_by: str, lineage: Mapping[str, object], **facts: object) -> None:
    """Write ``training.json``, which `register` reads for facts that are not in the files."""
    record = {"method": method, "made_by": made_by, "metrics": {}, "lineage": lineage, **facts}
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
