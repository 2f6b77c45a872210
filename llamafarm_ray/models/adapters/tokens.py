"""The tokenizer files of an adapter, compared with those of its base, which tokenize requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["check_tokens"]

_TEMPLATE = "chat_template.jinja"
_SHOWN = 5


def check_tokens(adapter: Path, base: Path) -> None:
    """Check that an adapter asks for no tokens and no chat template but its base's.

    Raises:
        InputError: it does; the message says which, the hint what to do.
    """
    own, bases = _template(adapter), _template(base)
    if own is not None and bases is not None and own.strip() != bases.strip():
        raise InputError(
            "The adapter's folder has a chat template of its own, and requests are written with its base model's.",
            hint="If it was trained with that template, merge it (`llamafarm models merge`) and register the merged "
            f"model; else remove {_TEMPLATE}, and chat_template from tokenizer_config.json.",
        )
    added = _vocabulary(adapter) - _vocabulary(base) if (adapter / "tokenizer.json").is_file() else set()
    if added and (base / "tokenizer.json").is_file():
        listed = ", ".join(repr(token) for token in sorted(added)[:_SHOWN])
        raise InputError(
            f"The adapter's tokenizer has {len(added)} tokens that its base model's has not: {listed}.",
            hint="Save the base model with these tokens (resize_token_embeddings, save_pretrained), and register the "
            "adapter with that folder as --base-model.",
        )


def _template(folder: Path) -> str | None:
    """Return a folder's chat template; ``None`` if it has none, or several under names."""
    path = folder / _TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    said = _read(folder / "tokenizer_config.json").get("chat_template")
    return said if isinstance(said, str) else None


def _vocabulary(folder: Path) -> set[str]:
    values = _read(folder / "tokenizer.json")
    model, added = values.get("model"), values.get("added_tokens")
    known = model.get("vocab") if isinstance(model, dict) else None
    names = set(known) if isinstance(known, dict) else set()
    if isinstance(added, list):
        names |= {str(one.get("content")) for one in added if isinstance(one, dict)}
    return names


def _read(path: Path) -> Mapping[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
