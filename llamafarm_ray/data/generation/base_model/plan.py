"""Settings of the base model's writer, as they travel to its actor."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llamafarm_ray.data.generation.base_model.languages import EXAMPLES_VERSION
from llamafarm_ray.data.generation.base_model.settings import Sampling, Study
from llamafarm_ray.data.generation.writer import PairWriter
from llamafarm_ray.data.lessons import LESSONS_VERSION, load_lessons
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.types import Digest

__all__ = ["BaseModelPlan"]

_PASSAGES_PER_BATCH = 64


@dataclass(frozen=True, slots=True)
class BaseModelPlan:
    """A `WriterPlan` for a base model in a folder.

    Args:
        folder: the model, the same path on each node.
        num_cpus: CPUs to compute with.
        num_gpus: GPUs to compute with, 0 or 1.
        sampling: decides the pairs.
        study: decides the writer that the model becomes.
        cache: folder or URI for the update that the model learns, so that no build learns it again; None: nowhere.
    """

    folder: Path
    num_cpus: float
    num_gpus: float = 0.0
    sampling: Sampling = field(default_factory=Sampling)
    study: Study = field(default_factory=Study)
    cache: str | None = None
    name: str = field(default="base_model", init=False)
    passages_per_batch: int = field(default=_PASSAGES_PER_BATCH, init=False)

    @property
    def digest(self) -> str:
        """See `WriterPlan`."""
        return _digest(LESSONS_VERSION, EXAMPLES_VERSION, self._weights, asdict(self.sampling), asdict(self.study))

    @property
    def _weights(self) -> list[list[object]]:
        """Files of the weights. They count by their sizes and times: reading them all takes too long."""
        files = sorted(self.folder.glob("*.safetensors"))
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]

    def open(self) -> PairWriter:
        """Load the model and let it learn the lessons.

        Raises:
            InputError: the folder has no causal language model with all its weights.
        """
        import torch  # planning needs no torch

        from llamafarm_ray.data.generation.base_model.learned import LearnedUpdate  # likewise
        from llamafarm_ray.data.generation.base_model.sampling import LineSampler  # likewise
        from llamafarm_ray.data.generation.base_model.study import learn  # likewise
        from llamafarm_ray.data.generation.base_model.writer import BaseModelWriter  # likewise
        from llamafarm_ray.models.loading import load_model  # likewise
        from llamafarm_ray.models.processor import matmul_dtype  # likewise
        from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries  # likewise

        quiet_libraries()
        # Ray may have been told of more CPUs than there are; more threads than cores wait for each other.
        torch.set_num_threads(max(1, min(int(self.num_cpus), len(os.sched_getaffinity(0)))))
        device = torch.device("cuda" if self.num_gpus else "cpu")
        tokenizer = load_tokenizer(self.folder)
        model = load_model(self.folder, dtype=matmul_dtype(device)).to(device)
        key = _digest(LESSONS_VERSION, str(self.folder), self._weights, asdict(self.study), self.sampling.seed)
        kept = LearnedUpdate(f"{self.cache.rstrip('/')}/lessons", key) if self.cache else None
        model = learn(model, tokenizer, load_lessons(), self.study, seed=self.sampling.seed, kept=kept)
        provenance = Provenance(self.name, self.folder.name, f"lessons-{LESSONS_VERSION}", self.digest)
        return BaseModelWriter(LineSampler(model, tokenizer), self.sampling, provenance)


def _digest(*parts: object) -> str:
    return Digest.of(json.dumps(parts, sort_keys=True).encode()).short
