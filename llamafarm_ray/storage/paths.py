"""Valid paths of a version's files: those that mean the same file on every system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["MAX_FILES", "clash", "path_problem"]

MAX_FILES = 100_000
"""The most files a version may have."""
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4096
_FORMS = {
    "is another path on Windows": re.compile(r"\\|^[A-Za-z]:"),
    "has a control character": re.compile(r"[\x00-\x1f\x7f-\x9f]"),
    "is hidden": re.compile(r"(?:^|/)\."),
}


def path_problem(path: str) -> str | None:
    """Return the problem with a path, as the end of a sentence (``"is outside its folder"``), or ``None``."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):  # an absolute path begins with an empty part
        return "is outside its folder"
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    for problem, form in _FORMS.items():
        if form.search(path):
            return problem
    if max(sizes) > _MAX_NAME_BYTES or sum(sizes) + len(parts) - 1 > _MAX_PATH_BYTES:
        return f"is too long (at most {_MAX_NAME_BYTES} bytes a name and {_MAX_PATH_BYTES} in all)"
    return None


def clash(paths: Iterable[str]) -> str | None:
    """Return the way in which two paths are one file somewhere, as a sentence without its end, or ``None``."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = _folded(path)
        if folded in seen:
            twice = seen[folded] == path
            return f"{path!r} is listed twice" if twice else f"{seen[folded]!r} and {path!r} are one file elsewhere"
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for end in range(1, len(parts)):
            if (other := seen.get("/".join(parts[:end]))) is not None:
                return f"{other!r} is a file and the folder of {path!r}"
    return None


def _folded(path: str) -> str:
    """The same for paths that differ only by case or Unicode normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
