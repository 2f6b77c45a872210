"""What lasts: files by content digest, manifests that list them, a node-local cache, on any fsspec target."""

from llamafarm_ray.storage.content import ContentStore
from llamafarm_ray.storage.location import Location
from llamafarm_ray.storage.manifest import FileEntry, Manifest

__all__ = ["ContentStore", "FileEntry", "Location", "Manifest"]
