"""Storage on any fsspec target: files by content digest, manifests that list them, and a node-local cache."""

from llamafarm_ray.storage.content import ContentStore, StoredBlob
from llamafarm_ray.storage.location import Location, StoredFile
from llamafarm_ray.storage.manifest import FileEntry, Manifest, file_digest
from llamafarm_ray.storage.node_cache.cache import CachedVersion

__all__ = [
    "CachedVersion",
    "ContentStore",
    "FileEntry",
    "Location",
    "Manifest",
    "StoredBlob",
    "StoredFile",
    "file_digest",
]
