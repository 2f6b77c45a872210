"""The spellings of sources, told apart without a look at any of them."""

from __future__ import annotations

import re

from llamafarm_ray.storage.downloads.archives import is_archive

__all__ = ["HUB_ID", "SCHEME", "is_source"]

HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+", re.ASCII)
"""``owner/name``."""
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def is_source(text: str) -> bool:
    """Return whether a text is written as a place that a model is downloaded from."""
    is_hub = HUB_ID.fullmatch(text.partition("@")[0]) is not None
    return is_hub or SCHEME.match(text) is not None or is_archive(text)
