"""Merge an adapter into its base model: one model that any engine serves, without the adapter's cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.training.methods.merging import Merged, check_mergeable, merge_adapter
from llamafarm_ray.workflows.models.parents import find_parent, new_folder, write_record

__all__ = ["MergedModel", "merge"]


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A merged model.

    Attributes:
        check: similarity of its answers to the source's.
    """

    path: Path
    adapter: str
    base_model: str
    check: Merged
    notes: list[str] = field(default_factory=list)


def merge(
    registry: RegistryApi,
    model: str,
    output: Path,
    *,
    base_model: str | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
) -> MergedModel:
    """Merge, compare logits on sample prompts, and leave a folder that `register` takes as a merged model.

    Args:
        registry: registry for names.
        model: an adapter's folder or name.
        output: the folder to write.
        base_model: place of the base, if not the one in the adapter's record.
        dtype: ``fp32``, ``bf16`` or ``fp16``; ``auto`` is the base model's own.

    Raises:
        ConflictError: ``output`` is taken.
        InputError: the adapter or its base is unusable.
        UnsupportedError: adapters of that type don't merge.
        IntegrityError: the merged model answers differently.
    """
    parent = find_parent(registry, model, base_model)
    check_mergeable(parent.folder)
    with new_folder(output, overwrite=overwrite) as folder:
        check = merge_adapter(parent.base.folder, parent.folder, folder, dtype=dtype)
        kept = {key: parent.lineage.get(key) for key in ("dataset", "dataset_digest", "config_digest")}
        lineage = {
            **{key: value for key, value in kept.items() if value},
            "base_model": parent.base.reference,
            "base_digest": parent.base.digest,
            "derived_from": [parent.digest],
            "parameters": {"merged": parent.reference, "dtype": check.dtype},
        }
        write_record(folder, method=parent.method or "lora", made_by="merge", lineage=lineage, check=asdict(check))
    notes = []
    if parent.method == "qlora":
        notes.append(
            "The adapter was trained on 4-bit weights and is merged into the unquantised base: it answers as it does "
            "on that base, which is close to, but not, what training saw."
        )
    return MergedModel(output, parent.reference, parent.base.reference, check, notes)
