"""The files of adapters on this node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.adapters import prove_adapter
from llamafarm_ray.registry.remote.view import RegistryView
from llamafarm_ray.registry.signing import check_policies
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.storage import ContentStore
from llamafarm_ray.storage.formats.finite import find_not_finite
from llamafarm_ray.types import Digest, ModelKind, ModelRef

__all__ = ["ServedBase", "VerifiedFiles"]

_FINDINGS = 4096
"""Of how many versions the findings are kept."""


@dataclass(frozen=True, slots=True)
class ServedBase:
    """The base model that adapters are proved against.

    Attributes:
        folder: its files on this node, weights in safetensors among them.
        dtype: the dtype that it is served in, as torch names it; ``None``: its own.
        is_vllm: True if vLLM serves it.
    """

    folder: Path
    dtype: str | None = None
    is_vllm: bool = False


class VerifiedFiles:
    """:class:`~llamafarm_ray.serving.adapters.protocols.AdapterFiles` out of the home's content store.

    Registering proves adapters against their base, and is not all that can write a home. So that is done here again,
    once for each digest, before an engine answers with them.

    Args:
        view: the registry, whose policies may ask for signatures.

    Attributes:
        base: the base model that they are for; ``None`` where the engine's adapters are none of peft's. Then only their
            weights are looked at.
    """

    def __init__(self, content: ContentStore, view: RegistryView) -> None:
        self._content = content
        self._view = view
        self.base: ServedBase | None = None
        self._finding = lru_cache(_FINDINGS)(_finding)  # a folder is one digest's; no OSError is kept

    async def pull(self, target: Target) -> Path:
        """The verified files of an adapter, their signature too where a policy asks for one.

        Raises:
            InputError: the adapter does not fit the base model, a weight of it is NaN or infinite, or a file of them is
                unsound or can't be read.
            UnsupportedError: it needs another engine.
            LlamaFarmError: its files can't be had, or are not what was registered and signed.
        """
        return await asyncio.to_thread(self._pull, target)

    def _pull(self, target: Target) -> Path:
        record = self._view.state.resolve(ModelRef.parse(target.ref))
        digest = Digest(record.registered.manifest)
        folder = self._content.pull(digest)
        try:
            check_policies(self._view.state, self._content, record, folder)
            if record.registered.kind is ModelKind.ADAPTER:
                self._prove(target.ref, folder)
        except BaseException:  # cancelled too: files that nobody got must not stay held
            self._content.release(digest)
            raise
        return folder

    def _prove(self, ref: str, folder: Path) -> None:
        try:
            found = self._finding(folder, self.base)
        except OSError as error:
            name, why = Path(error.filename or "a file").name, error.strerror or type(error).__name__
            raise InputError(
                f"{ref} can't be served: {name} can't be read: {why}.", hint="Ask the server's administrator."
            ) from error
        if isinstance(found, InputError):
            raise InputError(f"{ref} can't be served: {found.message}", hint=found.hint) from found
        if found:
            raise UnsupportedError(
                f"{ref} can't be served here: it has {found}, which vLLM can't serve.",
                hint="Deploy its base model with deployment.engine: transformers.",
            )

    def release(self, target: Target) -> None:
        """Let the files be evicted from this node's cache."""
        if target.digest is not None:
            self._content.release(target.digest)


def _finding(folder: Path, base: ServedBase | None) -> InputError | str:
    """Return why an adapter can't be served, or a feature of it that its engine can't serve; empty if it can.

    Clients read this, so it names files and no folder.

    Raises:
        OSError: a file can't be read.
    """
    try:
        if base is not None and (folder / "adapter_config.json").is_file():
            lack = prove_adapter(folder, base.folder, dtype=base.dtype).not_for_vllm
            return lack if base.is_vllm else ""
        found = find_not_finite(sorted(folder.rglob("*.safetensors")))
    except InputError as error:
        return error
    return InputError(f"{found}.", hint="Register a version whose weights are numbers.") if found else ""
