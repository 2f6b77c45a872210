"""The spellings of sources, told apart without a look at any of them."""

from __future__ import annotations

import re

from llamafarm_ray.storage.downloads.providers.archives import ARCHIVES, is_archive

__all__ = ["FILES", "HUB_ID", "SCHEME", "is_source", "model_name"]

HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+", re.ASCII)
"""``owner/name``."""
FILES = (".safetensors", ".gguf", ".json", *ARCHIVES)
"""Extensions of files that hold a model; a folder's name may have a dot, too."""
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def is_source(text: str) -> bool:
    """Return whether a text is written as a place that a model is downloaded from."""
    is_hub = HUB_ID.fullmatch(text.partition("@")[0]) is not None
    return is_hub or SCHEME.match(text) is not None or is_archive(text)


def model_name(last: str) -> str:
    """Return a model's name by the last part of its address: of a file without its extension, of a folder all of it."""
    extension = next((one for one in FILES if last.lower().endswith(one)), "")
    return last[: -len(extension)] if extension else last
