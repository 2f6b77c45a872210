"""Digests of everything that a benchmark's scores depend on: the key of its stored result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llamafarm_ray.types import Digest

__all__ = ["Inputs", "digest_of", "task_digests"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Digests of a benchmark's inputs.

    Args:
        weights: of the base's files and, with one, the adapter's.
        data: of the documents that are asked and those of few-shot examples.
        code: of the task's definition and lm-eval's version.
        template: of the chat template; empty where none is applied.
        settings: of the number of examples, shots, seeds and precision.
        backend: the engine by name: scores of two engines are not the same measure.
    """

    weights: str
    data: str
    code: str
    template: str
    settings: str
    backend: str

    @property
    def key(self) -> Digest:
        """Digest of all of them."""
        return digest_of(asdict(self))


def digest_of(value: object) -> Digest:
    """Return the digest of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_described)
    return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def _described(value: object) -> str:
    """Return what stands for a value that JSON has no form for: of a function its source, of others no address."""
    if callable(value):
        try:
            return inspect.getsource(inspect.unwrap(value))
        except (OSError, TypeError):
            pass
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def task_digests(tasks: Mapping[str, Any]) -> tuple[Digest, Digest]:
    """Return the digests of the data and of the code of lm-eval's tasks."""
    data, code = {}, {}
    for name, task in sorted(tasks.items()):
        shots = task.config.num_fewshot or 0
        data[name] = [
            [dict(doc) for doc in task.eval_docs],
            [dict(doc) for doc in task.fewshot_docs()] if shots else [],
        ]
        config = dict(task.dump_config())
        # Where the definition lies is no part of it; nor is the way to its data.
        config.pop("custom_dataset", None)
        config["metadata"] = {key: one for key, one in (config.get("metadata") or {}).items() if key != "config_source"}
        code[name] = config
    return digest_of(data), digest_of([importlib.metadata.version("lm-eval"), code])
