"""Models to evaluate: folders that `train` wrote, and registered versions."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llamafarm_ray.config import Config
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.folder import gguf_file, weight_formats
from llamafarm_ray.registry import BaseModel, RegistryApi, base_here, open_registry
from llamafarm_ray.registry.usage import Meter
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.manifest import Manifest
from llamafarm_ray.types import Digest, ModelKind, ModelRef
from llamafarm_ray.workflows.accounting.metering import meter_of
from llamafarm_ray.workflows.evaluation.provenance import weights_digest
from llamafarm_ray.workflows.inspection.base import servable_base
from llamafarm_ray.workflows.versions.register import base_reference
from llamafarm_ray.workflows.versions.training_data import TrainingData, find_inherited_data, find_training_data

__all__ = ["EvaluatedModel", "fetch_models"]


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model to measure.

    Attributes:
        base: the base model's folder, or the whole model's.
        adapter: the adapter's folder; None for a whole model.
        version: reference of its registered version; empty for a folder.
        base_weights: digest of its base's files alone.
        is_elsewhere: True for an adapter on other files than those that it was trained on: a model that was made from
            its base, or a GGUF file.
        base_model: the base model, or the whole one, as it was found; None for a registered whole model.
        manifest: of a registered version; None for a folder.
    """

    model_id: str
    base: Path
    adapter: Path | None
    weights: str
    version: str = ""
    base_weights: str = ""
    is_elsewhere: bool = False
    base_model: BaseModel | None = None
    manifest: Digest | None = None

    def fetch(self, home: str) -> None:
        """Bring its files to this machine, where they are not, from the registry's home or the base model's source.

        Raises:
            InputError: this machine keeps them in another folder, or they are in a folder of another machine alone.
            LlamaFarmError: the home or the source can't be read.
        """
        wanted = [folder for folder in self.folders if folder is not None]
        if all(folder.exists() for folder in wanted):
            return
        registry = open_registry(home)
        pulled = registry.content.pull(self.manifest) if self.manifest is not None else None
        has = [pulled if self.base_model is None else base_here(self.base_model, registry)]
        if self.adapter is not None:
            has.append(pulled or self.adapter)
        for folder, found in zip(wanted, has, strict=True):
            if found != folder or not folder.exists():
                raise InputError(
                    f"{self.model_id} is in {folder} on the machine that evaluates, and not on {socket.gethostname()}.",
                    hint="Register it, and set LLAMAFARM_CACHE to the same folder on all nodes.",
                )

    def meter(self, home: Location, owner: str) -> Meter:
        """Return the meter of its evaluation.

        Args:
            owner: the configuration's name: a folder has no namespace of its own.
        """
        if not self.version:
            return meter_of(home, "evaluate", owner, name=self.model_id)
        return meter_of(home, "evaluate", ModelRef.parse(self.version).name)

    @property
    def name_as_baseline(self) -> str:
        """Name of the model as a baseline in policies: a version's reference, or a folder's name without colons."""
        return self.version or self.model_id.replace(":", " ")

    @property
    def is_gguf(self) -> bool:
        """True for GGUF files, which llama.cpp computes."""
        return weight_formats(self.base)[:1] == ("gguf",)

    @property
    def folders(self) -> tuple[Path, Path | None]:
        """The folders of the base model and of the adapter."""
        return self.base, self.adapter

    def training_data(self, config: Config, registry: RegistryApi) -> list[TrainingData]:
        """Return the data that it was trained on, as far as its lineage knows them, and then those of its ancestors."""
        folder = self.adapter or self.base
        own = find_training_data(config, registry, folder=folder, version=self.version)
        inherited = find_inherited_data(
            config, registry, folder=folder, version=self.version, base=self.base, base_digest=self.base_weights
        )
        return [own, *inherited]

    @classmethod
    def find(cls, config: Config, registry: RegistryApi, model: str) -> Self:
        """Find a folder that `train` wrote, or a registered version.

        Raises:
            InputError: the model is unusable, or its base is another one.
            NotFoundError: there is no such model.
        """
        folder = Path(model).expanduser()
        if not folder.is_dir():
            return cls._of_version(config, registry, model)
        adapter = folder if (folder / "adapter_config.json").is_file() else None
        if adapter is None and weight_formats(folder)[:1] == ("gguf",):
            return cls._of_gguf_folder(config, registry, folder)
        base = servable_base(config.base_model or base_reference(folder) if adapter else model, registry)
        if adapter is not None:
            _check_forms(str(folder), adapter, base)
        own = Manifest.of_folder(adapter).digest if adapter else None
        return cls(
            folder.resolve().name, base.folder, adapter, weights_digest(base.digest, own), "", base.digest, False, base
        )

    @classmethod
    def _of_gguf_folder(cls, config: Config, registry: RegistryApi, folder: Path) -> Self:
        """Return the GGUF file of a folder: a whole model, or an adapter on the base that the configuration names."""
        own = Manifest.of_folder(folder).digest
        if not read_gguf(gguf_file(folder)).is_adapter:
            return cls(folder.resolve().name, folder, None, weights_digest(own, None), "", own)
        base = servable_base(config.base_model, registry)
        _check_forms(str(folder), folder, base)
        return cls(
            folder.resolve().name, base.folder, folder, weights_digest(base.digest, own), "", base.digest, False, base
        )

    @classmethod
    def _of_version(cls, config: Config, registry: RegistryApi, model: str) -> Self:
        record = registry.resolve(model)
        registered = record.registered
        pulled = registry.pull(record.ref)
        if registered.kind is not ModelKind.ADAPTER:
            weights = weights_digest(registered.manifest, None)
            return cls(record.ref, pulled, None, weights, record.ref, weights, manifest=Digest(registered.manifest))
        base = servable_base(config.base_model or registered.base_model, registry)
        _check_forms(record.ref, pulled, base)
        is_other = base.digest != registered.base_digest
        if is_other and not registry.refresh().descends(base.digest, str(registered.base_digest)):
            raise InputError(
                f"{base.reference} is not the base {record.ref} was trained on: their digests differ.",
                hint="Set base_model to the folder it was trained on, or to a registered model that was made from it.",
            )
        weights = weights_digest(base.digest, registered.manifest)
        return cls(
            record.ref,
            base.folder,
            pulled,
            weights,
            version=record.ref,
            base_weights=base.digest,
            is_elsewhere=is_other or registered.is_gguf_adapter,
            base_model=base,
            manifest=Digest(registered.manifest),
        )


def fetch_models(models: Sequence[EvaluatedModel], home: str) -> None:
    """Bring models to this machine, see `EvaluatedModel.fetch`."""
    for model in models:
        model.fetch(home)


def _check_forms(name: str, adapter: Path, base: BaseModel) -> None:
    """Check that an adapter and its base are both GGUF files, which llama.cpp computes together, or neither is.

    Raises:
        InputError: one is, and the other is not.
    """
    is_gguf_base = weight_formats(base.folder)[:1] == ("gguf",)
    is_gguf_adapter = weight_formats(adapter)[:1] == ("gguf",)
    if is_gguf_base and not is_gguf_adapter:
        raise InputError(
            f"{base.reference} is a GGUF file, and {name} is an adapter in safetensors, which llama.cpp "
            "can't add to it.",
            hint=f"Convert the adapter, and evaluate the result: `llamafarm models convert {name} --to gguf --output "
            "adapter-gguf --name NAME`.",
        )
    if is_gguf_adapter and not is_gguf_base:
        raise InputError(
            f"{name} is an adapter in GGUF, and {base.reference} is no GGUF file.",
            hint="Name a GGUF form of its base with --base-model.",
        )
