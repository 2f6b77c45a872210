"""Registered datasets: their versions by digest, and the models that were trained on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry import DatasetRegistered, RegistryApi
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.types import ModelRef

__all__ = ["ListedDataset", "find_dataset", "list_datasets", "locate", "show_dataset"]

_SHORTEST_DIGEST = 6


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A version of a dataset.

    Attributes:
        num_validation: rows held out.
        location: place it was written to.
        documents: the sources: path, digest, and how many examples each gave.
        manifest: manifest of its files in the home, for an evaluation set; else None.
        is_newest: True if no later version has the name.
    """

    name: str
    digest: str
    num_train: int
    num_validation: int
    location: str
    documents: tuple[dict[str, object], ...]
    trained: tuple[str, ...]
    evaluated: tuple[str, ...]
    manifest: str | None
    is_newest: bool

    def to_dict(self) -> dict[str, object]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def list_datasets(registry: RegistryApi) -> list[ListedDataset]:
    """Return all registered versions that the caller may read, by name, the newest of a name first."""
    state = registry.refresh()
    readable = [name for name in sorted(state.datasets) if registry.may(Action.READ, ModelRef(name).namespace)]
    return [dataset for name in readable for dataset in _versions(registry, name)]


def show_dataset(registry: RegistryApi, reference: str) -> list[ListedDataset]:
    """Return the versions of one dataset, the newest first; of ``name@digest`` that version alone.

    Raises:
        NotFoundError: there is no such dataset or version.
        AccessDeniedError: the principal may not read it.
    """
    registry.refresh()
    name, _, digest = reference.partition("@")
    registry.allow(Action.READ, ModelRef(name).namespace, target=f"dataset {name}")
    versions = _versions(registry, name)
    if not digest:
        return versions
    return [_version(versions, reference, digest)]


def find_dataset(registry: RegistryApi, reference: str) -> ListedDataset:
    """Return the newest version of a dataset, or the one that ``name@digest`` names.

    Raises:
        NotFoundError: there is no such dataset or version.
    """
    return show_dataset(registry, reference)[0]


def locate(registry: RegistryApi, reference: str) -> Path:
    """Return where a dataset lies: the path that was given, or the location of a registered one.

    Raises:
        NotFoundError: there is neither such a path nor such a dataset.
        InputError: it is an evaluation set.
    """
    path = Path(reference).expanduser()
    if path.exists() or Path(str(path).rpartition("#")[0] or "/nothing").exists():
        return path
    try:
        found = find_dataset(registry, reference)
    except NotFoundError as error:
        raise NotFoundError(f"There is no file and no dataset {reference!r}.", hint=error.hint) from None
    if found.manifest is not None:
        raise InputError(
            f"{reference} is an evaluation set, and this takes examples for training.",
            hint=f"`llamafarm models evaluate --questions {reference}` asks it.",
        )
    if not found.location or not Path(found.location).exists():
        raise NotFoundError(
            f"The dataset {reference} is not at {found.location or 'any place'!r} any more.", hint="Build it again."
        )
    return Path(found.location)


def _versions(registry: RegistryApi, name: str) -> list[ListedDataset]:
    datasets = registry.state.datasets
    if name not in datasets:
        known = [one for one in datasets if registry.may(Action.READ, ModelRef(one).namespace)]
        raise NotFoundError(f"There is no dataset {name!r}.", hint=did_you_mean(name, known))
    newest_first = list(reversed(datasets[name]))
    return [_listed(registry, event, is_newest=not index) for index, event in enumerate(newest_first)]


def _listed(registry: RegistryApi, event: DatasetRegistered, *, is_newest: bool) -> ListedDataset:
    readable = [
        record
        for record in registry.state.versions()
        if registry.may(Action.READ, ModelRef(record.registered.model).namespace)
    ]
    trained = sorted(
        record.ref
        for record in readable
        if record.registered.dataset_digest == event.digest and record.registered.dataset in {event.name, ""}
    )
    evaluated = sorted(record.ref for record in readable if (event.name, event.digest) in record.evaluation_sets)
    documents = tuple(document.model_dump() for document in event.documents)
    return ListedDataset(
        event.name,
        event.digest,
        event.num_train,
        event.num_validation,
        event.location,
        documents,
        tuple(trained),
        tuple(evaluated),
        event.manifest,
        is_newest,
    )


def _version(versions: list[ListedDataset], reference: str, digest: str) -> ListedDataset:
    wanted = digest.removeprefix("sha256:")
    found = [one for one in versions if one.digest.removeprefix("sha256:").startswith(wanted)]
    if len(wanted) < _SHORTEST_DIGEST or len({one.digest for one in found}) != 1:
        known = ", ".join(one.digest[7:19] for one in versions[:4])
        raise NotFoundError(f"{reference!r} names no one version.", hint=f"Versions are {known}.")
    return found[0]
