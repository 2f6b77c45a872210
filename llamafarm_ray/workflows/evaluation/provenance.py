"""Digests of a score's inputs, so that only comparable scores are ranked together."""

from __future__ import annotations

import functools
from pathlib import Path

import llamafarm_ray
from llamafarm_ray.types import Digest

__all__ = ["code_digest", "weights_digest"]

_SCORING = (
    "data/augmentation/with_passages.py",
    "data/generation/base_model/likelihood.py",
    "data/generation/base_model/ranking.py",
    "data/generation/base_model/student.py",
    "data/generation/base_model/study.py",
    "data/generation/base_model/texts.py",
    "data/search/corpus.py",
    "data/search/excerpts.py",
    "data/search/retrieval.py",
    "evaluation/answering.py",
    "evaluation/custom",
    "evaluation/engines",
    "evaluation/general",
    "evaluation/generation.py",
    "evaluation/losses.py",
    "evaluation/measuring.py",
    "evaluation/metrics",
    "evaluation/question_rows.py",
    "evaluation/rag",
    "evaluation/risk",
    "evaluation/run.py",
    "models/chat.py",
    "text",
    "workflows/evaluation/gguf_engine.py",
    "workflows/evaluation/sentence_ranking.py",
    "workflows/evaluation/vllm_engine.py",
)


@functools.cache
def code_digest() -> str:
    """Return the digest of the modules that decide the prompts and the scores."""
    root = Path(llamafarm_ray.__file__).parent
    files = [file for name in _SCORING for file in _modules(root / name)]
    parts = [f"{file.relative_to(root).as_posix()} {Digest.of(file.read_bytes())}" for file in files]
    return Digest.of("\n".join(parts).encode())


def weights_digest(base: str, adapter: str | None) -> str:
    """Return the digest of a model: that of its files, or of its base's and its adapter's."""
    return base if adapter is None else Digest.of(f"{base} {adapter}".encode())


def _modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
