"""The files of a source that a model needs: weights in safetensors, configuration, tokenizer, template and card."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.storage.paths import path_problem

__all__ = ["KNOWN_NAMES", "SIGNATURE_NAME", "choose_files"]

SIGNATURE_NAME = "model.sig"
"""OpenSSF's signature over a model's files, by its usual name."""

_ALWAYS = ("*.json", "*.jinja", "*.model", "*.txt", "README*", "LICENSE*", "NOTICE*", "USE_POLICY*", SIGNATURE_NAME)
_WEIGHTS = ("*.safetensors",)
_GGUF = ("*.gguf",)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
_SECOND_COPIES = ("consolidated*.safetensors", "original/*")
"""The same weights in the layout of another program, beside those in transformers' layout."""
_MAX_SHOWN = 8

KNOWN_NAMES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "README.md",
    "LICENSE",
)
"""The usual files of a model's folder beside its weights, tried where nothing lists it."""


def choose_files(sizes: Mapping[str, int | None], include: Sequence[str], source: str) -> list[str]:
    """Return the names to download, sorted.

    Args:
        sizes: the size in bytes of each file that the source has, where known, by its path with ``/``.
        include: patterns of weights to take instead of the safetensors; see :mod:`fnmatch`, ``*`` also matches ``/``.
        source: name of the source in messages.

    Raises:
        InputError: a name is unusable, or which of several forms of the weights is wanted is not clear.
        NotFoundError: there are no weights, or nothing that a pattern means.
    """
    names = [name for name in sizes if not _is_hidden(name)]
    for name in names:
        if problem := path_problem(name):
            raise InputError(
                f"{source} has a file {name[:200]!r}, which {problem}.", hint="Download it by other means."
            )
    described = _matching(names, _ALWAYS)
    chosen = _included(names, include, source) if include else _weights(names, sizes, source)
    return sorted({*described, *chosen})


def _weights(names: Sequence[str], sizes: Mapping[str, int | None], source: str) -> set[str]:
    found = _matching(names, _WEIGHTS)
    if found:
        return (found - _matching(names, _SECOND_COPIES)) or found
    files = sorted(_matching(names, _GGUF))
    if len(files) == 1:
        return set(files)
    if files:
        raise InputError(
            f"{source} has {len(files)} GGUF files: {_listed(files, sizes)}.",
            hint=f"Choose one: --include '{files[0]}'.",
        )
    if pickles := sorted(_matching(names, _PICKLES)):
        raise InputError(
            f"{source} has its weights only as {_listed(pickles, sizes)}, which run code when they are loaded.",
            hint="Use a version of it in safetensors. Of files that you have in a folder, `llamafarm models convert "
            "--convert-pickle` makes safetensors.",
        )
    others = sorted(_matching(names, ("*.onnx", "*.onnx_data")))
    if others:
        raise InputError(
            f"{source} has its weights as {_listed(others, sizes)}.", hint=f"Ask for them: --include '{others[0]}*'."
        )
    raise NotFoundError(
        f"{source} has no weights; it has {_listed(sorted(names), sizes) or 'no files'}.",
        hint="Give the address of the folder, repository or file that holds the model.",
    )


def _included(names: Sequence[str], include: Sequence[str], source: str) -> set[str]:
    chosen: set[str] = set()
    for pattern in include:
        matched = _matching(names, (pattern,))
        if not matched:
            raise NotFoundError(
                f"{source} has no file {pattern!r}; it has {_listed(sorted(names), {})}.", hint="Correct --include."
            )
        chosen |= matched
    if pickles := sorted(chosen & _matching(names, _PICKLES)):
        raise InputError(
            f"{pickles[0]} of {source} can hold pickled code, which runs when it is loaded; it is not stored here.",
            hint="Leave it out of --include.",
        )
    return chosen


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    return {
        name
        for name in names
        for pattern in patterns
        if fnmatch.fnmatchcase(name.lower(), pattern.lower())
        or ("/" not in pattern and fnmatch.fnmatchcase(name.rpartition("/")[2].lower(), pattern.lower()))
    }


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in {".", ".."} for part in name.split("/"))


def _listed(names: Sequence[str], sizes: Mapping[str, int | None]) -> str:
    shown = [f"{name} ({size / 1e9:,.2f} GB)" if (size := sizes.get(name)) else name for name in names[:_MAX_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
