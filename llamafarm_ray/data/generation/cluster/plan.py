"""Settings of the model that writes in vLLM on the cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation.choice import Choice
from llamafarm_ray.data.generation.endpoint.examples import Asking
from llamafarm_ray.data.generation.endpoint.prompt import PROMPT_VERSION
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.models.folder import folder_fingerprint
from llamafarm_ray.types import Digest

__all__ = ["VllmPlan"]

_PASSAGES_PER_BATCH = 64


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """A model in vLLM, asked for all passages of a build in one run of Ray Data.

    Args:
        folder: the model, the same path on each node.
        asking: decides the pairs, and the digest.
        max_model_len: longest prompt and answer in tokens.
        engine_kwargs: further options of vLLM.
        replicas: most engines at once.
        num_cpus: CPUs of an engine, if it has no GPU.
        num_gpus: GPUs of an engine; 0: it computes on CPUs.
        cache: folder or URI of the answers.
    """

    folder: Path
    asking: Asking
    max_model_len: int
    engine_kwargs: Mapping[str, bool | int | float | str | None]
    replicas: int
    num_cpus: float
    num_gpus: float
    cache: str
    name: str = field(default="vllm", init=False)
    passages_per_batch: int = field(default=_PASSAGES_PER_BATCH, init=False)

    @classmethod
    def of(cls, choice: Choice, qa: QaGeneration, *, num_cpus: float, num_gpus: float, cache: str) -> Self:
        """Make the plan of a configuration."""
        folder = Path(choice.model)
        return cls(
            folder,
            Asking.of(folder.name, qa, qa.vllm),
            qa.vllm.max_model_len,
            dict(qa.vllm.engine_kwargs),
            qa.vllm.replicas,
            num_cpus,
            num_gpus,
            cache,
        )

    @property
    def digest(self) -> str:
        """Digest of everything that decides the pairs of a passage."""
        return Digest.of(repr([self.asking.digest, self.server]).encode()).short

    @property
    def server(self) -> str:
        """The model in the keys of stored answers, where an endpoint has its address."""
        decides: list[object] = [
            folder_fingerprint(self.folder),
            self.max_model_len,
            sorted(self.engine_kwargs.items()),
        ]
        return f"vllm:{self.folder}#{Digest.of(repr(decides).encode()).short}"

    @property
    def provenance(self) -> Provenance:
        """Recorded with each example."""
        return Provenance(self.name, self.folder.name, PROMPT_VERSION, self.digest)

    @property
    def num_devices(self) -> float:
        """Devices of all engines."""
        parts = [self.engine_kwargs.get(f"{kind}_parallel_size") for kind in ("tensor", "pipeline")]
        gpus = self.num_gpus * math.prod(int(part) for part in parts if part)
        return self.replicas * (gpus or self.num_cpus)
