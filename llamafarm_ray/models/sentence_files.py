"""sentence-transformers' files beside a model's or an adapter's: the mark of an embedding model, and its pooling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from llamafarm_ray.config.sections.objectives import Pooling
from llamafarm_ray.errors import InputError

__all__ = ["gives_vectors", "pooling_of", "pools_otherwise", "read_pooling", "write_sentence_transformers_files"]

_LIST = "modules.json"
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLING_MODES: Mapping[Pooling, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}


def gives_vectors(folder: Path) -> bool:
    """Return True if a folder's model is for embeddings: it has sentence-transformers' list of its parts."""
    return (folder / _LIST).is_file()


def read_pooling(folder: Path | None) -> Pooling | None:
    """Return the pooling of a folder's token vectors by sentence-transformers' files; ``None`` where they name none.

    Raises:
        InputError: they ask for what `pooled` does not do.
    """
    path = folder / "1_Pooling" / "config.json" if folder is not None else None
    if path is None or not path.is_file():
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    asked = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    for mode, key in _POOLING_MODES.items():
        if asked == [key]:
            return mode
    raise InputError(
        f"{path} asks for {' and '.join(asked) or 'no pooling'}.", hint="Mean, last and cls can be served."
    )


def pooling_of(base: Path) -> Pooling:
    """Return the pooling of a base model's vectors: its files', else the mean.

    Raises:
        InputError: they ask for features that can't be served.
    """
    return read_pooling(base) or "mean"


def pools_otherwise(adapter: Path, base: Path) -> bool:
    """Return True if an adapter's files name another pooling than its base model's.

    Raises:
        InputError: one of them asks for a feature that can't be served.
    """
    return read_pooling(adapter) not in {None, pooling_of(base)}


def write_sentence_transformers_files(
    folder: Path, *, width: int, max_length: int, pooling: Pooling, query_prefix: str = "", passage_prefix: str = ""
) -> None:
    """Make a saved model, or an adapter, readable by ``sentence_transformers.SentenceTransformer(folder)``.

    See https://sbert.net/docs/sentence_transformer/usage/custom_models.html.

    Args:
        folder: folder of weights, configuration and tokenizer.
        width: of a vector.
        max_length: the longest text, in tokens.
        pooling: as in `pooled`.
        query_prefix: put before questions; the prompt ``query``.
        passage_prefix: put before what is searched; the prompts ``passage`` and ``document``.
    """
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name}" if index else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(_MODULES)
    ]
    pooling_config = {"word_embedding_dimension": width, "include_prompt": True}
    pooling_config |= {key: mode == pooling for mode, key in _POOLING_MODES.items()}
    prompts = {"query": query_prefix, "document": passage_prefix, "passage": passage_prefix}
    files = {
        _LIST: modules,
        "1_Pooling/config.json": pooling_config,
        # Without a file in it, a folder is lost wherever files are copied one by one.
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
