"""Models in OCI registries: ModelPack's artifacts (https://github.com/modelpack/model-spec), plain ones, Ollama's.

The protocol is https://github.com/opencontainers/distribution-spec/blob/main/spec.md; a registry that asks for a token
says where to get it (https://distribution.github.io/distribution/spec/auth/token).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from llamafarm_ray.errors import AccessDeniedError, InputError, IntegrityError, StorageError, UnsupportedError
from llamafarm_ray.storage.downloads.addresses import is_loopback
from llamafarm_ray.storage.downloads.credentials import docker_login
from llamafarm_ray.storage.downloads.providers.source import Listing
from llamafarm_ray.storage.downloads.providers.wanted_files import choose_files
from llamafarm_ray.storage.downloads.remote import TransientError, Wanted
from llamafarm_ray.storage.downloads.web import Web, WebFile
from llamafarm_ray.types import Digest

__all__ = ["OciSource"]

_REFERENCE = re.compile(
    r"oci://(?P<host>[\w.-]+(?::\d+)?)/(?P<repository>[a-z0-9][a-z0-9._/-]*?)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_TITLES = ("org.cncf.model.filepath", "org.cnai.model.filepath", "org.opencontainers.image.title")
_UNPACK = "io.deis.oras.content.unpack"
_LICENCES = "org.opencontainers.image.licenses"
_NAMES = {"application/vnd.ollama.image.model": "model.gguf", "application/vnd.ollama.image.license": "LICENSE"}
"""The files that layers of these media types are, which have no title."""
_MODEL_CONFIGS = re.compile(r"application/vnd\.cn(cf|ai)\.model\.config\.v1\+json")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class OciSource:
    """An artifact in a registry.

    Args:
        reference: ``oci://host/repository:tag``, or with ``@sha256:...``.
        revision: a tag or digest in place of the reference's own.

    Raises:
        InputError: the reference has another form.
    """

    kind = "oci"
    needs_network = True
    variant = ""

    def __init__(self, reference: str, revision: str = "") -> None:
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise InputError(
                f"{reference[:200]!r} is no reference of an OCI registry.", hint="Write oci://host/repository:tag."
            )
        self._host, self._repository = match["host"], match["repository"]
        self.revision = revision or match["digest"] or match["tag"] or ""
        self.address = f"oci://{self._host}/{self._repository}"
        self.name = self._repository.rpartition("/")[2]
        self.is_fixed = self.revision.startswith("sha256:")
        scheme = "http" if is_loopback(self._host.partition(":")[0]) else "https"
        self._base = f"{scheme}://{self._host}/v2/{self._repository}"

    def listing(self, web: Web, include: Sequence[str]) -> Listing:
        """Read the manifest and choose among its layers."""
        manifest, digest = self._manifest(web, self.revision or "latest")
        layers = manifest.get("layers") or manifest.get("blobs") or []
        files: dict[str, dict[str, Any]] = {}
        archives: dict[str, dict[str, Any]] = {}
        try:
            for number, layer in enumerate(layers):
                if suffix := _tar_suffix(layer):
                    archives[f"layer-{number}{suffix}"] = layer
                elif title := _title(layer):
                    files[title] = layer
            sizes: dict[str, int | None] = {name: int(layer["size"]) for name, layer in files.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise StorageError(f"The manifest of {self.address} lists a layer without digest or size.") from None
        names = list(sizes) if archives else choose_files(sizes, include, self.address)
        chosen = {name: files[name] for name in names} | archives
        wanted = [self._wanted(web, name, layer) for name, layer in chosen.items()]
        return Listing(str(digest), wanted, frozenset(archives), self._licence(web, manifest), is_layered=True)

    def copy_elsewhere(self) -> Path | None:
        """Return nothing."""
        return None

    def _manifest(self, web: Web, reference: str, depth: int = 0) -> tuple[dict[str, Any], Digest]:
        url = f"{self._base}/manifests/{reference}"
        answer = self._text(web, url, {"Accept": f"{_MANIFEST}, {_INDEX}, {_DOCKER}"})
        digest = Digest.of(answer.body)
        if reference.startswith("sha256:") and digest != reference:
            raise IntegrityError(f"{self.address} answered {digest} when it was asked for {reference}.")
        found = answer.json()
        if not isinstance(found, dict):
            raise StorageError(f"{self.address} did not answer with a manifest.", hint="Check the address.")
        if "manifests" not in found:
            return found, digest
        candidates = [one for one in found["manifests"] if isinstance(one, dict) and "digest" in one]
        models = [one for one in candidates if "model" in str(one.get("artifactType", ""))] or candidates
        if len(models) != 1 or depth:
            raise InputError(
                f"{self.address} is an index of {len(models)} artifacts.",
                hint="Name one by its digest: " + ", ".join(str(one["digest"]) for one in models[:3]),
            )
        return self._manifest(web, str(Digest(str(models[0]["digest"]))), depth + 1)

    def _wanted(self, web: Web, name: str, layer: Mapping[str, Any]) -> Wanted:
        digest = str(layer["digest"])
        if not digest.startswith("sha256:"):
            raise UnsupportedError(f"{name} of {self.address} has the digest {digest[:20]}...; only sha256 is checked.")
        url = f"{self._base}/blobs/{Digest(digest)}"
        remote = WebFile(web, url, refusal=lambda response: self._renew(web, response))
        return Wanted(name, remote, size_bytes=int(layer["size"]), digest=Digest(digest))

    def _licence(self, web: Web, manifest: Mapping[str, Any]) -> str:
        config = manifest.get("config")
        if isinstance(config, dict) and _MODEL_CONFIGS.fullmatch(str(config.get("mediaType"))):
            found = self._text(web, f"{self._base}/blobs/{Digest(str(config.get('digest')))}", {}).json()
            descriptor = found.get("descriptor") if isinstance(found, dict) else None
            licences = descriptor.get("licenses") if isinstance(descriptor, dict) else None
            if isinstance(licences, list) and licences:
                return " AND ".join(str(one) for one in licences)
        return str((manifest.get("annotations") or {}).get(_LICENCES, ""))

    def _text(self, web: Web, url: str, headers: Mapping[str, str]) -> Any:
        """Ask for something small, with a token where the registry asks for one."""
        challenges: list[str] = []

        def refusal(response: httpx.Response) -> None:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                challenges.append(response.headers.get("www-authenticate", ""))

        try:
            return web.text(url, headers, refusal=refusal)
        except AccessDeniedError:
            if not challenges or not self._log_in(web, challenges[0]):
                raise
            return web.text(url, headers)

    def _renew(self, web: Web, response: httpx.Response) -> None:
        """Get another token where the one that was sent expired."""
        challenge = response.headers.get("www-authenticate", "")
        is_registry = response.url.host == urlsplit(self._base).hostname
        if response.status_code == httpx.codes.UNAUTHORIZED and is_registry and self._log_in(web, challenge):
            raise TransientError("answered that its token expired")

    def _log_in(self, web: Web, challenge: str) -> bool:
        """Answer a challenge; return True if that gave credentials."""
        login = docker_login(self._host)
        if not challenge.lower().startswith("bearer"):
            if login:
                web.credentials.basic(self._base, *login)
            else:
                web.credentials.trust(self._base)
            return web.credentials.has(self._base)
        asked = dict(_CHALLENGE.findall(challenge))
        realm = asked.get("realm", "")
        if login:
            web.credentials.basic(realm, *login)
        else:
            web.credentials.trust(realm)
        scope = asked.get("scope") or f"repository:{self._repository}:pull"
        found = web.text(f"{realm}?{urlencode({'service': asked.get('service', ''), 'scope': scope})}").json()
        token = found.get("token") or found.get("access_token") if isinstance(found, dict) else None
        web.credentials.bearer(self._base, token if isinstance(token, str) else None)
        return isinstance(token, str)


def _title(layer: Mapping[str, Any]) -> str:
    annotations = layer.get("annotations") or {}
    known = _NAMES.get(str(layer["mediaType"]), "")
    return next((str(annotations[key]) for key in _TITLES if key in annotations), known)


def _tar_suffix(layer: Mapping[str, Any]) -> str:
    """Return the suffix of the archive that a layer is; empty for one that is a file itself."""
    kind = str(layer["mediaType"])
    is_tar = ".tar" in kind or str((layer.get("annotations") or {}).get(_UNPACK)).lower() == "true"
    if not is_tar:
        return ""
    if "zstd" in kind:
        return ".tar.zst"
    return ".tar" if kind.endswith(".tar") else ".tar.gz"
