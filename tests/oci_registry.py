"""An OCI registry on loopback that speaks the distribution protocol: manifests, blobs with ranges, tokens."""

import hashlib
import json
import re
from contextlib import contextmanager

from file_server import FileServer, file_server

__all__ = ["OciRegistry", "oci_registry"]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class OciRegistry(FileServer):
    """Artifacts by repository and tag. With a token, requests are challenged as Docker's registry does."""

    def __init__(self):
        super().__init__()
        self.manifests = {}
        self.accepts = None
        self.accepts_login = None

    def blob(self, repository, data):
        """Store a blob; its descriptor without a media type."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.files[f"/v2/{repository}/blobs/{digest}"] = data
        return {"digest": digest, "size": len(data)}

    def push(self, repository, tag, layers, **manifest):
        """Store an artifact of layers: media type, annotations and bytes of each; its digest."""
        config = self.blob(repository, json.dumps(manifest.pop("config", {})).encode())
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config | {"mediaType": manifest.pop("config_type", "application/vnd.oci.empty.v1+json")},
            "layers": [
                self.blob(repository, data) | {"mediaType": kind, "annotations": annotations}
                for kind, annotations, data in layers
            ],
            **manifest,
        }
        return self.put(repository, tag, body)

    def put(self, repository, tag, body):
        """Store a manifest or an index; its digest."""
        data = json.dumps(body).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for reference in (tag, digest):
            self.manifests[repository, reference] = data
        return digest

    def route(self, asked):
        if asked.path == "/token":
            if self.accepts_login and asked.headers.get("authorization") != self.accepts_login:
                return 401, {}, b"no"
            return 200, {"Content-Type": "application/json"}, json.dumps({"token": self.accepts}).encode()
        if self.accepts and asked.headers.get("authorization") != f"Bearer {self.accepts}":
            challenge = f'Bearer realm="{self.url}/token",service="tests",scope="repository:models/tiny:pull"'
            return 401, {"WWW-Authenticate": challenge}, b"no"
        found = re.fullmatch(r"/v2/(.+)/manifests/(.+)", asked.path)
        if not found:
            return None
        data = self.manifests.get((found[1], found[2]))
        return (404, {}, b"no") if data is None else (200, {"Content-Type": MANIFEST}, data)


@contextmanager
def oci_registry():
    """A running registry."""
    with file_server(OciRegistry()) as registry:
        yield registry
