"""Speed of a model's files in an engine on this machine, each measured in a process of its own.

So a trial's threads, memory and crashes are its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from llamafarm_ray.errors import DeploymentError

__all__ = ["MARK", "Option", "Speed", "SpeedEngine", "SpeedTrial", "measure_speed"]

SpeedEngine = Literal["vllm", "transformers", "gguf"]
Option = bool | int | str
"""A value of an engine's option."""

_MODULE = "llamafarm_ray.serving.engines.speed_trial"
MARK = "speed: "
"""Beginning of the line with the result."""
_LONGEST_S = 300.0
"""The longest that loading and answers may take together."""


@dataclass(frozen=True, slots=True)
class SpeedTrial:
    """One way of serving a model.

    Attributes:
        model: its folder, or GGUF file.
        num_threads: CPU threads; ``None``: the engine's choice.
        dtype: the precision of computation, as torch names it; ``None``: what `deploy` uses.
        num_parallel: answers that are written at the same time.
        prompt_tokens: length of each prompt; shorter where the model's context is.
        new_tokens: length of each answer, likewise.
        num_rounds: measured rounds, after one that warms up.
        options: further options of the engine, as ``deployment.engine_kwargs`` has them: names and values.
    """

    model: str
    engine: SpeedEngine
    num_threads: int | None = None
    dtype: str | None = None
    num_parallel: int = 1
    prompt_tokens: int = 128
    new_tokens: int = 32
    num_rounds: int = 2
    options: tuple[tuple[str, Option], ...] = ()


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured speed; the median of rounds.

    Attributes:
        first_token_s: seconds from a request to the first token of its answer.
        tokens_per_s: tokens of answers a second after the first, of all that are written at the same time.
    """

    first_token_s: float
    tokens_per_s: float


def measure_speed(trial: SpeedTrial) -> Speed:
    """Load a model in an engine, have it write answers, and end it.

    Raises:
        DeploymentError: the engine can't serve the model, or takes too long.
    """
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    if trial.num_threads is not None:
        threads = {"OMP_NUM_THREADS": str(trial.num_threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        environment |= threads
    try:
        ended = subprocess.run(  # our own module
            [sys.executable, "-m", _MODULE],
            input=json.dumps(asdict(trial)),
            capture_output=True,
            text=True,
            env=environment,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeploymentError(f"Engine {trial.engine} did not answer within {_LONGEST_S:.0f} s.") from None
    told = next((line for line in ended.stdout.splitlines() if line.startswith(MARK)), None)
    if ended.returncode != 0 or told is None:
        raise DeploymentError(f"Engine {trial.engine} can't serve {trial.model!r}: {_reason(ended.stderr)}")
    return Speed(**json.loads(told.removeprefix(MARK)))


def _reason(errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line]
    return (named or lines or ["no reason was given"])[-1]
