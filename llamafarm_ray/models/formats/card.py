"""Facts of a model card: those of its head, and the uses named in its text."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from llamafarm_ray.models.formats.files import ModelFiles

__all__ = ["card_of_gguf", "read_card"]

_CARD_KEYS = (
    "license",
    "license_name",
    "license_link",
    "language",
    "pipeline_tag",
    "base_model",
    "tags",
    "datasets",
    "library_name",
)
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
_SECTIONS = {
    "intended_use": re.compile(r"(?:intended|direct) uses?\b.*", re.IGNORECASE),
    "out_of_scope": re.compile(r"(?:out[- ]of[- ]scope|prohibited|misuse)\b.*", re.IGNORECASE),
}
"""Headings of a model card whose first paragraph is kept; the names are those of the hub's template
(https://huggingface.co/docs/hub/model-card-annotated)."""
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)
_MAX_CARD_BYTES = 1 << 16
_SHOWN_NAMES = 20
_MAX_VALUE = 1000


def read_card(files: ModelFiles) -> dict[str, object]:
    """Return the facts of a model card: of its head, and of its sections on use; none where they can't be read."""
    if "README.md" not in files.sizes:
        return {}
    with files.open("README.md") as file:
        text = file.read(_MAX_CARD_BYTES).decode("utf-8", errors="replace")
    return _card_head(text) | _card_sections(text)


def _card_head(text: str) -> dict[str, object]:
    if (match := _FRONT_MATTER.match(text)) is None:
        return {}
    try:
        values = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: found for key in _CARD_KEYS if (found := _plain(values.get(key))) is not None}


def _card_sections(text: str) -> dict[str, str]:
    """Return the first paragraph below the headings about intended uses, and below those about other uses."""
    parts = _HEADING.split(text)
    found: dict[str, str] = {}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        for name, pattern in _SECTIONS.items():
            paragraph = next((" ".join(part.split()) for part in body.split("\n\n") if part.strip()), "")
            if paragraph and name not in found and pattern.match(heading.strip("*_ ")):
                found[name] = paragraph[:_MAX_VALUE]
    return found


def card_of_gguf(facts: Mapping[str, object]) -> dict[str, object]:
    """Return a GGUF file's card: its facts under ``general``."""
    named = {key.removeprefix("general."): value for key, value in facts.items() if key.startswith("general.")}
    named |= {f"license_{part}": named.get(f"license.{part}") for part in ("name", "link")}
    kept = (*_CARD_KEYS, "name", "author", "description", "languages", "base_model.0.name", "source.url")
    return {key: found for key in kept if (found := _plain(named.get(key))) is not None}


def _plain(value: object) -> object:
    """Return a text, a number or a short list of texts; ``None`` for anything else."""
    if isinstance(value, list):
        return [str(one)[:_MAX_VALUE] for one in value[:_SHOWN_NAMES] if isinstance(one, str | int)]
    return value[:_MAX_VALUE] if isinstance(value, str) else value if isinstance(value, bool | int | float) else None
