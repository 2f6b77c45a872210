"""Prove an adapter's folder against its base model, before it becomes a version and where its files are pulled."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import InputError, LlamaFarmError
from llamafarm_ray.models.adapters import (
    WEIGHTS,
    MisnamedError,
    Renaming,
    check_adapter,
    prove_adapter,
    rename_tensors,
    why_not_vllm,
)
from llamafarm_ray.registry import AdapterFacts, BaseModel, RegistryApi, VersionRecord
from llamafarm_ray.storage import Manifest
from llamafarm_ray.types import Digest

__all__ = ["Proved", "check_same_base", "known_base", "prove_pulled", "proved_folder"]

_COMPARED = ".safetensors"
_DIGEST = "sha256:"


@dataclass(frozen=True, slots=True)
class Proved:
    """An adapter that may be registered.

    Attributes:
        folder: its files: those that were given, or a copy with other names for its tensors.
    """

    folder: Path
    facts: AdapterFacts


@contextlib.contextmanager
def proved_folder(folder: Path, base: Path | None, *, fix_names: bool) -> Iterator[Proved]:
    """Prove an adapter for the time of a block, in which its files can be read.

    Args:
        base: the base model's folder; ``None`` where its files are not on this machine. Then only the adapter's own
            files are checked.
        fix_names: True to correct well-known wrong names of tensors, in a copy.

    Raises:
        InputError: the adapter does not fit, or no engine serves it.
    """
    renaming = None
    try:
        facts = _facts(folder, base)
    except MisnamedError as error:
        if not fix_names:
            raise _of(folder, error) from error
        renaming = error.renaming
    except InputError as error:
        raise _of(folder, error) from error
    if renaming is None:
        yield Proved(folder, facts)
        return
    with tempfile.TemporaryDirectory(prefix="llamafarm-") as temporary:
        copy = Path(temporary, folder.name)
        _copy(folder, copy, renaming)
        try:
            facts = _facts(copy, base)
        except InputError as error:  # the names fit now, and something else does not
            raise _of(folder, error) from error
        yield Proved(copy, facts.model_copy(update={"renamed": renaming.words}))


def _facts(folder: Path, base: Path | None) -> AdapterFacts:
    if base is None:
        config, _ = check_adapter(folder)
        return AdapterFacts(proved=False, not_for_vllm=why_not_vllm(config))
    return AdapterFacts(proved=True, not_for_vllm=prove_adapter(folder, base).not_for_vllm)


def _of(folder: Path, error: InputError) -> InputError:
    """Return an error that names the folder, which `prove_adapter` does not."""
    return InputError(f"{folder} can't be registered: {error.message}", hint=error.hint)


def _copy(folder: Path, copy: Path, renaming: Renaming) -> None:
    """Copy the files of a version, with other names for its tensors."""
    for entry in Manifest.of_folder(folder).files:
        target = copy / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.path == WEIGHTS:
            rename_tensors(folder / entry.path, target, renaming.names)
        else:
            shutil.copyfile(folder / entry.path, target)


def known_base(registry: RegistryApi, reference: str, digest: str) -> Path | None:
    """Return the folder of a base model that is known by its digest; ``None`` where its files are not here.

    Args:
        registry: registry for the result.
        reference: the base as a training run named it.
    """
    if next(registry.state.with_content(digest), None) is not None:
        with contextlib.suppress(LlamaFarmError):
            return registry.content.pull(Digest(digest))
    folder = Path(reference).expanduser()
    if reference and folder.is_dir() and Manifest.of_folder(folder).digest == digest:
        return folder
    return None


def prove_pulled(registry: RegistryApi, record: VersionRecord, folder: Path) -> None:
    """Prove an adapter that was pulled, unless its registration did; without its base, its own files are checked.

    Args:
        registry: registry for its base.

    Raises:
        InputError: the adapter does not fit, or no engine serves it.
    """
    facts = record.registered
    if not (folder / "adapter_config.json").is_file() or (facts.adapter is not None and facts.adapter.proved):
        return
    base = None
    if any(one.digest == facts.base_digest for one in registry.content.cached()):  # else it would be downloaded
        base = registry.content.pull(Digest(facts.base_digest or ""))
    try:
        _facts(folder, base)
    except InputError as error:
        raise InputError(f"{record.ref} is no usable adapter: {error.message}", hint=error.hint) from error


def check_same_base(registry: RegistryApi, given: BaseModel, known: str) -> None:
    """Check that the base model that is named for an adapter has the weights of the one that it was trained on.

    Args:
        registry: registry that may have the latter's manifest.
        given: the base model that is named.
        known: the digest of the one that it was trained on, or a reference to it.

    Raises:
        InputError: their weights differ, or only the digest of the latter is known, and that differs.
    """
    manifest, weights = Manifest.of_folder(given.folder), _weights_of(registry, known)
    if manifest.digest == known or weights == _weights(manifest):
        return
    if weights is None and not known.startswith(_DIGEST):
        return  # a model of a hub, of which no more is known than its name
    what = "weights" if weights is not None else "digests"
    raise InputError(
        f"{given.reference} is not the base model that the adapter was trained on, which is {known}: their {what} "
        "differ.",
        hint="Leave --base-model out, or name the base that it was trained on; if it is that one with other files "
        "beside its weights, import the one it was trained on first.",
    )


def _weights_of(registry: RegistryApi, known: str) -> frozenset[str] | None:
    """Return the digests of a base model's weights; ``None`` where they can't be known without a download."""
    with contextlib.suppress(LlamaFarmError):
        if known.startswith(_DIGEST):
            return _weights(registry.content.manifest(Digest(known)))
        folder = Path(known).expanduser()
        if folder.is_dir():
            return _weights(Manifest.of_folder(folder))
        return _weights(registry.content.manifest(Digest(registry.resolve(known).registered.manifest)))
    return None


def _weights(manifest: Manifest) -> frozenset[str]:
    return frozenset(entry.digest for entry in manifest.files if entry.path.endswith(_COMPARED))
