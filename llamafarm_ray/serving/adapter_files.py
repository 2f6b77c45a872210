"""The files of adapters on this node."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.registry.signing import check_policies
from llamafarm_ray.registry.view import RegistryView
from llamafarm_ray.serving.resolution import Target
from llamafarm_ray.storage import ContentStore
from llamafarm_ray.storage.finite import NotFinite, find_not_finite
from llamafarm_ray.types import Digest, ModelKind, ModelRef

__all__ = ["VerifiedFiles"]

_FINDINGS = 4096
"""Of how many versions it is kept whether their weights are numbers."""


class VerifiedFiles:
    """:class:`~llamafarm_ray.serving.adapters.AdapterFiles` out of the home's content store.

    Registering refuses weights that are NaN or infinite, and is not all that can write a home. So they are looked at
    here again, once for each digest, before an engine answers with them.

    Args:
        content: where they are stored.
        view: the registry, whose policies may ask for signatures.
    """

    def __init__(self, content: ContentStore, view: RegistryView) -> None:
        self._content = content
        self._view = view
        self._finding = lru_cache(_FINDINGS)(_finding)  # a folder is one digest's; no error is kept

    async def pull(self, target: Target) -> Path:
        """The verified files of an adapter, their signature too where a policy asks for one.

        Raises:
            InputError: a weight of it is NaN or infinite, or a file of them is unsound or can't be read.
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
                self._check_finite(target.ref, folder)
        except BaseException:
            self._content.release(digest)
            raise
        return folder

    def _check_finite(self, ref: str, folder: Path) -> None:
        try:
            found = self._finding(folder)
        except InputError as error:
            raise InputError(f"{ref} can't be served: {error.message}", hint=error.hint) from error
        if found is not None:
            raise InputError(f"{ref} can't be served: {found}.", hint="Register a version whose weights are numbers.")

    def release(self, target: Target) -> None:
        """Let the files be evicted from this node's cache."""
        if target.digest is not None:
            self._content.release(target.digest)


def _finding(folder: Path) -> NotFinite | None:
    """What :func:`find_not_finite` finds in a folder. Clients read its errors, so they name files and no folder."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            if found := find_not_finite([path]):
                return found
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise InputError(f"{path.name} can't be read: {why}.", hint="Ask whoever runs the server.") from error
    return None
