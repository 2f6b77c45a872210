"""Models of a Hugging Face hub: huggingface.co, a mirror of it (HF_ENDPOINT), or a private hub of the same protocol.

The protocol: ``GET {endpoint}/api/models/{id}/revision/{revision}?blobs=true`` lists a repository's files with their
sizes and digests; ``GET {endpoint}/{id}/resolve/{commit}/{path}`` gives one, redirecting large ones to another host.
See https://huggingface.co/docs/hub/api.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from llamafarm_ray.errors import AccessDeniedError, LlamaFarmError, NotFoundError, StorageError
from llamafarm_ray.storage.downloads.addresses import may_carry_secrets, shown
from llamafarm_ray.storage.downloads.credentials import hub_token
from llamafarm_ray.storage.downloads.providers.source import Listing
from llamafarm_ray.storage.downloads.providers.wanted_files import choose_files
from llamafarm_ray.storage.downloads.remote import Wanted
from llamafarm_ray.storage.downloads.web import Web, WebFile
from llamafarm_ray.types import Digest

__all__ = ["HubSource", "hub_endpoint"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_endpoint() -> str:
    """Return the hub's address: ``$HF_ENDPOINT``, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


class HubSource:
    """A model of the hub.

    Args:
        model_id: ``owner/name``.
        revision: a branch, tag or commit; empty for the default branch.
    """

    kind = "hub"
    needs_network = True
    variant = ""

    def __init__(self, model_id: str, revision: str = "") -> None:
        self.model_id = model_id
        self.revision = revision
        self.name = model_id.rpartition("/")[2]
        self.address = f"hf://{model_id}"
        self.is_fixed = _COMMIT.fullmatch(revision) is not None

    def listing(self, web: Web, include: Sequence[str]) -> Listing:
        """List the repository's files at the commit that its revision is now."""
        endpoint = hub_endpoint()
        web.credentials.bearer(endpoint, hub_token())
        revision = quote(self.revision or "main", safe="")
        url = f"{endpoint}/api/models/{self.model_id}/revision/{revision}?blobs=true"
        answer = web.text(url, refusal=self._refusal)
        found = answer.json()
        try:
            commit = str(found.get("sha") or answer.headers.get("x-repo-commit") or self.revision or "main")
            siblings = {str(one["rfilename"]): one for one in found["siblings"]}
            sizes = {name: _size(one) for name, one in siblings.items()}
        except (AttributeError, KeyError, TypeError):
            raise StorageError(f"{shown(url)} did not answer as a hub does.", hint="Check HF_ENDPOINT.") from None
        names = choose_files(sizes, include, f"{self.model_id} on {shown(endpoint)}")
        files = [self._wanted(web, f"{endpoint}/{self.model_id}/resolve/{commit}", siblings[name]) for name in names]
        return Listing(commit, files, licence=_licence(found))

    def copy_elsewhere(self) -> Path | None:
        """Return the snapshot in huggingface_hub's own cache."""
        home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
        cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
        folder = cache / f"models--{self.model_id.replace('/', '--')}"
        revision = self.revision or "main"
        try:
            commit = revision if self.is_fixed else (folder / "refs" / revision).read_text("utf-8").strip()
        except (OSError, ValueError):
            return None
        snapshot = folder / "snapshots" / commit
        return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None

    def _wanted(self, web: Web, base: str, sibling: dict[str, object]) -> Wanted:
        name = str(sibling["rfilename"])
        remote = WebFile(web, f"{base}/{quote(name)}", refusal=self._refusal)
        lfs = sibling.get("lfs")
        if isinstance(lfs, dict) and _SHA256.fullmatch(str(lfs.get("sha256"))):
            return Wanted(name, remote, size_bytes=_size(sibling), digest=Digest(f"sha256:{lfs['sha256']}"))
        git = str(sibling.get("blobId"))
        return Wanted(name, remote, size_bytes=_size(sibling), git_digest=git if _COMMIT.fullmatch(git) else None)

    def _refusal(self, response: httpx.Response) -> LlamaFarmError | None:
        endpoint, code = hub_endpoint(), response.headers.get("x-error-code", "")
        has_token = hub_token() is not None
        if has_token and not may_carry_secrets(endpoint) and response.status_code in {401, 403}:
            return AccessDeniedError(
                f"{shown(endpoint)} asks for a token for {self.model_id}, and yours is sent over https:// only.",
                hint="Set HF_ENDPOINT to an https:// address.",
            )
        if code == "GatedRepo":
            return AccessDeniedError(
                f"{self.model_id} is gated: its owners require that their terms are accepted first"
                f"{', and the account of your token has not done so' if has_token else ''}.",
                hint=f"Accept them at {shown(endpoint)}/{self.model_id}"
                f"{'' if has_token else ', then set HF_TOKEN or run `hf auth login`'}.",
            )
        if code == "RevisionNotFound":
            return NotFoundError(f"{self.model_id} has no revision {self.revision!r}.", hint="Leave --revision out.")
        if code == "RepoNotFound" or (response.status_code in {401, 404} and "/api/" in response.url.path):
            return NotFoundError(
                f"{self.model_id!r} is no folder here, and {shown(endpoint)} has no such model"
                f"{'' if has_token else ', or a private one'}.",
                hint="Check the name." if has_token else "Check the name; for a private one set HF_TOKEN.",
            )
        if response.status_code in {401, 403}:
            return AccessDeniedError(
                f"{shown(endpoint)} answered {response.status_code} for {self.model_id}.",
                hint="Check HF_TOKEN: it may have expired, or lack the right to read this model.",
            )
        return None


def _size(sibling: Any) -> int | None:
    size = sibling.get("size")
    if size is None and isinstance(sibling.get("lfs"), dict):
        size = sibling["lfs"].get("size")
    return size if isinstance(size, int) and size >= 0 else None


def _licence(found: Any) -> str:
    card = found.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    return licence if isinstance(licence, str) else ""
