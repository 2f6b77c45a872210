"""Combine adapters of one base model into a single adapter that does what each of them does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llamafarm_ray.errors import UserError, did_you_mean
from llamafarm_ray.registry import BaseModel, RegistryApi
from llamafarm_ray.training.methods.merging import COMBINATIONS, Combined, check_combinable, combine_adapters
from llamafarm_ray.workflows.models.parents import Parent, find_parent, new_folder, write_record

__all__ = ["CombinedAdapter", "combine"]


@dataclass(frozen=True, slots=True)
class CombinedAdapter:
    """A combined adapter.

    Attributes:
        parents: versions it was made from.
        weights: weight of each.
        check: its rank, and how far it is from the weighted sum.
    """

    path: Path
    parents: list[str]
    weights: list[float]
    method: str
    base_model: str
    check: Combined


def combine(
    registry: RegistryApi,
    models: Sequence[str],
    output: Path,
    *,
    weights: Sequence[float] | None = None,
    method: str = "cat",
    density: float | None = None,
    rank: int | None = None,
    base_model: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> CombinedAdapter:
    """Combine, and leave a folder that `register` takes as an adapter made from its parents.

    Args:
        registry: registry for names.
        models: adapters' folders or names.
        output: the folder to write.
        weights: weight of each; equal shares of 1 by default.
        density: the share of values that ties, DARE and pruning keep.
        rank: of the result, for svd.
        base_model: place of the base, if not the one in the adapters' records.
        seed: of DARE's random choice.

    Raises:
        ConflictError: ``output`` is taken.
        UserError: the adapters don't fit each other, or the numbers don't fit the method.
    """
    chosen = next((known for known in COMBINATIONS if known == method), None)
    if chosen is None:
        raise UserError(f"There is no way to combine called {method!r}.", hint=did_you_mean(method, COMBINATIONS))
    parents = [find_parent(registry, model, base_model) for model in models]
    counts = list(weights) if weights is not None else [1 / len(parents)] * len(parents)
    check_combinable([parent.folder for parent in parents], counts, method, density)
    base = _common_base(parents)
    with new_folder(output, overwrite=overwrite) as folder:
        check = combine_adapters(
            base.folder,
            [parent.folder for parent in parents],
            counts,
            folder,
            method=chosen,
            density=density,
            rank=rank,
            seed=seed,
        )
        names = [parent.reference for parent in parents]
        density_used = {"density": density} if density is not None else {}
        lineage = {
            "base_model": base.reference,
            "base_digest": base.digest,
            "derived_from": [parent.digest for parent in parents],
            "parameters": {"combination": method, "parents": names, "weights": counts, **density_used, "r": check.r},
        }
        write_record(folder, method="lora", made_by="combine", lineage=lineage, check=asdict(check))
    return CombinedAdapter(output, names, counts, method, base.reference, check)


def _common_base(parents: Sequence[Parent]) -> BaseModel:
    """Return the base model of all parents.

    Raises:
        UserError: they have several.
    """
    first = parents[0]
    for parent in parents[1:]:
        if parent.base.digest != first.base.digest:
            raise UserError(
                f"{first.reference} was trained on {first.base.reference}, and {parent.reference} on another base, "
                f"{parent.base.reference}.",
                hint="Combine adapters of one base.",
            )
    return first.base
