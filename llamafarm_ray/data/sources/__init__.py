"""Sources of documents: folders, files, patterns, archives and URIs."""

from llamafarm_ray.data.sources.discover import discover
from llamafarm_ray.data.sources.found import SkippedDocument, SourceFile, Sources, source_name
from llamafarm_ray.data.sources.guarded import FileLimits, read_within
from llamafarm_ray.data.sources.reading import ReadFile, read_file

__all__ = [
    "FileLimits",
    "ReadFile",
    "SkippedDocument",
    "SourceFile",
    "Sources",
    "discover",
    "read_file",
    "read_within",
    "source_name",
]
