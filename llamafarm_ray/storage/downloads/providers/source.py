"""The protocol of sources: an address, and a listing of the files to fetch from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llamafarm_ray.storage.downloads.remote import Wanted
from llamafarm_ray.storage.downloads.web import Web

__all__ = ["Listing", "Source"]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a model at a source, at one moment.

    Attributes:
        resolved: identity that changes with the files: a commit, an ETag, a digest; empty if the source has none.
        files: files to fetch; layers in the order in which they are put onto each other.
        archives: paths of those among them that hold the model in a compressed or packed form.
        licence: the licence that the source names, where it does so outside of the files.
        is_layered: True if the archives are parts of one folder; otherwise one holds a model among other files.
    """

    resolved: str
    files: Sequence[Wanted]
    archives: frozenset[str] = field(default_factory=frozenset)
    licence: str = ""
    is_layered: bool = False


class Source(Protocol):
    """A place where a model can be had."""

    @property
    def kind(self) -> str:
        """``hub``, ``web``, ``store``, ``oci`` or ``local``."""

    @property
    def address(self) -> str:
        """The source in its one spelling, without secrets and without a revision."""

    @property
    def revision(self) -> str:
        """The revision that was asked for; empty for the newest."""

    @property
    def variant(self) -> str:
        """The part of the address that distinguishes models and is never written down, since it may hold secrets."""

    @property
    def name(self) -> str:
        """The name that requests call the model by."""

    @property
    def is_fixed(self) -> bool:
        """True if the source can't change: its revision is a commit or a digest."""

    @property
    def needs_network(self) -> bool:
        """True if the source is on another machine."""

    def listing(self, web: Web, include: Sequence[str]) -> Listing:
        """Look what there is.

        Args:
            web: the client to ask with.
            include: patterns of weights to take instead of the safetensors.

        Raises:
            TransientError: the source can't be reached.
            LlamaFarmError: it does not have what is asked for, or refuses it.
        """

    def copy_elsewhere(self) -> Path | None:
        """Return a folder of this machine in which another tool keeps the same files."""
