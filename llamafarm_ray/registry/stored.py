"""Check that a version's manifest and all of its files are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard, TypeVar

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.registry.commands import Command, Register, RegisterDataset, check_stored
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.storage import ContentStore
from llamafarm_ray.types import Digest

__all__ = ["StoredManifests", "names_stored", "with_stored"]

_MOST = 10_000
_Command = TypeVar("_Command", bound=Register | RegisterDataset)


def names_stored(command: Command) -> TypeGuard[Register | RegisterDataset]:
    """Return True for a command about stored files: they have to be there."""
    return isinstance(command, Register) or (isinstance(command, RegisterDataset) and command.manifest is not None)


class StoredManifests:
    """Manifests that were found stored, with the generation of each of their files.

    A file goes only after a commit that condemns its generation, so a file that was seen under a generation is there
    for as long as the state still has that one. The disk is not read again for it.
    """

    def __init__(self) -> None:
        self._seen: dict[Digest, dict[Digest, int]] = {}

    def look(self, state: RegistryState, content: ContentStore, command: _Command) -> _Command:
        """See `with_stored`."""
        if command.stored or command.manifest is None:
            return with_stored(state, content, command)
        seen = self._seen.get(command.manifest)
        if seen is not None and all(state.generations.get(digest, 0) == number for digest, number in seen.items()):
            return replace(command, stored=seen)
        found = with_stored(state, content, command)
        if len(self._seen) >= _MOST:
            self._seen.clear()
        self._seen[command.manifest] = dict(found.stored)
        return found


def with_stored(state: RegistryState, content: ContentStore, command: _Command) -> _Command:
    """The command with the generation that each of its files is stored under, so that it fails if one is condemned.

    Files that the command names itself were published by the caller, and are not looked up again.

    Raises:
        ContentMovedError: the files that the command names were condemned meanwhile.
        InputError: the manifest or one of its files is not stored.
        StorageError: the home can't be read.
    """
    digest = command.manifest
    if digest is None:
        return command
    what = "a version" if isinstance(command, Register) else "an evaluation set"
    try:
        manifest = content.manifest(digest)
    except IntegrityError as error:
        check_stored(state, command.stored)
        raise InputError(
            f"{command.target} can't get {what} with the manifest {digest}: {error.message}",
            hint="Store its files first: `llamafarm models register`, or ContentStore.publish.",
        ) from None
    sizes = {entry.digest: entry.size_bytes for entry in manifest.files if entry.digest not in command.stored}
    for blob, size_bytes in sizes.items():
        if content.size(blob) != size_bytes:
            raise InputError(
                f"{command.target} can't get {what} with the manifest {digest}: its file {blob} is not stored.",
                hint="Store its files first: `llamafarm models register`, or ContentStore.publish.",
            )
    parts = content.blobs.stored_as(manifest) - set(command.stored)
    generations: dict[Digest, int] = {blob: state.generations.get(blob, 0) for blob in (digest, *parts)}
    return replace(command, stored={**generations, **command.stored})
