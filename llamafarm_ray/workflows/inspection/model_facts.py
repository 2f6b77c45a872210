"""Facts of registered models, read from the headers of their stored files: nothing is downloaded as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.models.formats.files import FolderFiles, ModelFiles, RangedFile
from llamafarm_ray.models.formats.inspection import Inspection
from llamafarm_ray.registry import RegistryApi, VersionRecord
from llamafarm_ray.registry.governance.access import Action
from llamafarm_ray.storage import Manifest
from llamafarm_ray.storage.content import ContentStore
from llamafarm_ray.storage.node_cache.cache import Cache
from llamafarm_ray.types import Digest, ModelKind, ModelRef
from llamafarm_ray.workflows.inspection.inspect_model import InspectedModel, inspect_opened

__all__ = ["FactsReader", "ModelFacts"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a version.

    Attributes:
        whole: facts of the model that answers: of an adapter its base, else the same. None if the base's files are
            neither in the home nor in this machine's cache.
        served_by: engines that take its files.
    """

    own: InspectedModel
    whole: InspectedModel | None
    served_by: tuple[str, ...]

    @property
    def card(self) -> Mapping[str, object]:
        """The model card's facts; of an adapter without a card those of its base."""
        return self.own.inspection.card or (self.whole.inspection.card if self.whole is not None else {})

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Memory of the weights by precision, a base's and its adapter's together; empty if the base is not known."""
        if self.whole is None:
            return {}
        sizes = self.whole.inspection.memory_bytes
        more = self.own.inspection.memory_bytes if self.own is not self.whole else {}
        return {name: size + more.get(name, 0) for name, size in sizes.items()}

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the card names."""
        told = self.card.get("language") or self.card.get("languages") or ()
        return tuple(map(str, told)) if isinstance(told, list | tuple) else (str(told),)

    @property
    def trained_by(self) -> tuple[str, ...]:
        """Methods of fine-tuning that take its files; none of an adapter's."""
        return self.own.trained_by

    @property
    def answering(self) -> Inspection | None:
        """The inspection of the model that answers; None if its files are not known."""
        return self.whole.inspection if self.whole is not None else None

    def to_dict(self) -> dict[str, object]:
        """Return the facts as JSON values; unknown ones are null or empty."""
        seen = self.answering
        return {
            "format": self.own.inspection.format,
            "parameters": self.own.inspection.num_parameters,
            "architecture": seen.architecture if seen else "",
            "context": seen.context_length if seen else None,
            "chat_template": seen.has_chat_template if seen else None,
            "tokenizer": seen.tokenizer if seen else "",
            "tokens": seen.num_tokens if seen else None,
            "languages": list(self.languages),
            "memory_bytes": self.memory_bytes,
            "served_by": list(self.served_by),
            "trained_by": list(self.trained_by),
            "card": dict(self.card),
        }


class FactsReader:
    """Reads facts of versions, those of the same files once."""

    def __init__(self, registry: RegistryApi) -> None:
        self._registry = registry
        self._known: dict[str, InspectedModel | None] = {}

    def of(self, record: VersionRecord) -> ModelFacts | None:
        """Return the facts of a version; None if its files are no longer kept, or hold no weights that can be read."""
        said = record.registered
        own = self._inspected(said.manifest, record.ref)
        if own is None:
            return None
        if said.kind is not ModelKind.ADAPTER:
            return ModelFacts(own, own, own.served_by)
        readable = said.base_digest is not None and self._may_read(said.base_digest)
        whole = self._inspected(said.base_digest, said.base_model) if said.base_digest and readable else None
        is_for_vllm = said.adapter is None or not said.adapter.not_for_vllm
        return ModelFacts(own, whole, tuple(one for one in own.served_by if one != "vllm" or is_for_vllm))

    def _may_read(self, digest: str) -> bool:
        """Return True if no registered model has these files, or one has that the caller may read."""
        models = [ModelRef(one.registered.model) for one in self._registry.state.with_content(digest)]
        return not models or any(self._registry.may(Action.READ, model.namespace) for model in models)

    def _inspected(self, digest: str, shown: str) -> InspectedModel | None:
        if digest not in self._known:
            try:
                self._known[digest] = inspect_opened(self._files(Digest(digest)), shown, compare=False)
            except (LlamaFarmError, OSError):  # no weights, or none that can be read: there is nothing to tell
                self._known[digest] = None
        return self._known[digest]

    def _files(self, digest: Digest) -> ModelFiles:
        content = self._registry.content
        cache = content.node_cache
        if (folder := cache.folder_of(digest)) is not None:
            return FolderFiles(folder)
        if cache.has(digest) and (manifest := cache.manifest(digest)) is not None:
            return _CompressedFiles(cache, manifest)
        return _StoredFiles(content, content.manifest(digest))


class _CompressedFiles:
    """Files of a version that this machine's cache has compressed; see `ModelFiles`."""

    def __init__(self, cache: Cache, manifest: Manifest) -> None:
        self._cache, self._digest = cache, manifest.digest
        self._entries = {entry.path: entry for entry in manifest.files if "/" not in entry.path}

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: entry.size_bytes for name, entry in self._entries.items()}

    def open(self, name: str) -> BinaryIO:
        return self._cache.open(self._digest, self._entries[name])


class _StoredFiles:
    """Files of a manifest, of which ranges are read; see `ModelFiles`."""

    def __init__(self, content: ContentStore, manifest: Manifest) -> None:
        self._content = content
        self._entries = {entry.path: entry for entry in manifest.files if "/" not in entry.path}

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: entry.size_bytes for name, entry in self._entries.items()}

    def open(self, name: str) -> BinaryIO:
        entry = self._entries[name]

        def fetch(begin: int, size_bytes: int) -> bytes:
            return self._content.read_range(entry.digest, begin, begin + size_bytes)

        return RangedFile(entry.size_bytes, fetch).buffered()
