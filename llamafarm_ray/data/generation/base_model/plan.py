"""Settings of the base model's writer, as they travel to its actor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from llamafarm_ray.data.augmentation.lessons import LESSONS_VERSION
from llamafarm_ray.data.generation.base_model.languages import EXAMPLES_VERSION
from llamafarm_ray.data.generation.base_model.settings import Sampling, Study, digest_of, files_of_weights
from llamafarm_ray.data.generation.writer import PairWriter
from llamafarm_ray.data.rows import Provenance

__all__ = ["BaseModelPlan"]

_PASSAGES_PER_BATCH = 64


@dataclass(frozen=True, slots=True)
class BaseModelPlan:
    """A `WriterPlan` for a base model in a folder.

    Args:
        folder: the model, the same path on each node.
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
        weights = files_of_weights(self.folder)
        return digest_of(LESSONS_VERSION, EXAMPLES_VERSION, weights, asdict(self.sampling), asdict(self.study))

    def open(self) -> PairWriter:
        """Load the model and let it learn the lessons.

        Raises:
            InputError: the folder has no causal language model with all its weights.
        """
        import torch  # planning needs no torch

        from llamafarm_ray.data.generation.base_model.sampling import LineSampler  # likewise
        from llamafarm_ray.data.generation.base_model.student import load_student  # likewise
        from llamafarm_ray.data.generation.base_model.writer import BaseModelWriter  # likewise

        model, tokenizer = load_student(
            self.folder,
            self.study,
            seed=self.sampling.seed,
            cache=self.cache,
            num_threads=int(self.num_cpus),
            device=torch.device("cuda" if self.num_gpus else "cpu"),
        )
        provenance = Provenance(self.name, self.folder.name, f"lessons-{LESSONS_VERSION}", self.digest)
        return BaseModelWriter(LineSampler(model, tokenizer), self.sampling, provenance)
