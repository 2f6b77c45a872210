"""The files of adapters on this node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from llamafarm_ray.registry.signing import check_policies
from llamafarm_ray.registry.view import RegistryView
from llamafarm_ray.serving.resolution import Target
from llamafarm_ray.storage import ContentStore
from llamafarm_ray.types import Digest, ModelRef

__all__ = ["VerifiedFiles"]


class VerifiedFiles:
    """:class:`~llamafarm_ray.serving.adapters.AdapterFiles` out of the home's content store.

    Args:
        content: where they are stored.
        view: the registry, whose policies may ask for signatures.
    """

    def __init__(self, content: ContentStore, view: RegistryView) -> None:
        self._content = content
        self._view = view

    async def pull(self, target: Target) -> Path:
        """The verified files of an adapter, their signature too where a policy asks for one."""
        return await asyncio.to_thread(self._pull, target)

    def _pull(self, target: Target) -> Path:
        record = self._view.state.resolve(ModelRef.parse(target.ref))
        digest = Digest(record.registered.manifest)
        folder = self._content.pull(digest)
        try:
            check_policies(self._view.state, self._content, record, folder)
        except BaseException:
            self._content.release(digest)
            raise
        return folder

    def release(self, target: Target) -> None:
        """Let the files be evicted from this node's cache."""
        if target.digest is not None:
            self._content.release(target.digest)
