"""Choose the engine that writes the questions and answers, and say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation.servers import server_url
from llamafarm_ray.errors import InputError

__all__ = ["Choice", "Generator", "choose_generator", "why_it_cannot_write"]

Generator = Literal["rules", "endpoint", "base_model", "vllm"]

_LEAST_BYTES = 100_000_000
"""Weights of a model that can write: 135M parameters, the smallest that was tried, have 270 MB."""
_MOST_CPU_BYTES = 1_500_000_000
"""Weights of a model that writes pairs of a hundred sentences in about ten minutes on two CPU cores."""

_MODEL_KEY = "dataset.preprocessing.qa_generation.model"
_SECTION = "dataset.preprocessing.qa_generation.endpoint"
_URL_KEY = f"{_SECTION}.base_url"
_VLLM_KEY = "dataset.preprocessing.qa_generation.vllm.model"

_WITHOUT_ENDPOINT = ("questions", "retrieval", "preferences")
"""Kinds that are made from any engine's questions and answers."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine of a build.

    Args:
        model: name or folder of the model; empty for rules.
        base_url: address of the endpoint; empty for the other engines.
        reason: a sentence for the report.
    """

    generator: Generator
    model: str
    reason: str
    base_url: str = ""


def choose_generator(
    qa: QaGeneration, *, base_model: str | None, environment: Mapping[str, str], has_gpu: bool = False
) -> Choice:
    """Choose the engine for ``qa_generation.model``.

    ``auto`` takes the endpoint that is configured, else the model that is named for vLLM, else the base model, else
    the rules. An endpoint that only the
    environment names is taken by ``auto`` if ``endpoint.model`` says which model to ask: a key that lies in the
    environment for something else must not spend money. A base model in a folder has to be large enough to write, and
    small enough to do it in minutes where there is no GPU.

    Args:
        base_model: ``base_model`` of the configuration, or the folder that it was found in.
        has_gpu: True if a model can compute on a GPU.

    Raises:
        InputError: a model is named and no endpoint is configured, the base model is wanted and there is none, or
            something is asked for that only an endpoint or vLLM makes.
    """
    choice = _chosen(qa, base_model=base_model, environment=environment, has_gpu=has_gpu)
    if choice.generator not in {"endpoint", "vllm"}:
        _require_no_endpoint(qa, choice)
    return choice


def _require_no_endpoint(qa: QaGeneration, choice: Choice) -> None:
    """Refuse what rules and base models don't make."""
    asked = {"kinds": [kind for kind in qa.kinds if kind not in _WITHOUT_ENDPOINT], "personas": qa.personas}
    asked |= {"difficulty": list(qa.difficulty)}
    found = [f"{name} ({', '.join(values)})" for name, values in asked.items() if values]
    found += ["unanswerable (true)"] if qa.unanswerable else []
    if found:
        need = "needs" if len(found) == 1 else "need"
        raise InputError(
            f"dataset.preprocessing.qa_generation: {' and '.join(found)} {need} an endpoint or vLLM. {choice.reason}",
            hint=f"Set {_MODEL_KEY} to a model of an endpoint, or to 'vllm'.",
        )


def _chosen(qa: QaGeneration, *, base_model: str | None, environment: Mapping[str, str], has_gpu: bool) -> Choice:
    match qa.model:
        case "rules":
            return Choice("rules", "", f"{_MODEL_KEY} is 'rules'.")
        case "base_model":
            if base_model is None:
                raise InputError(f"{_MODEL_KEY} is 'base_model', and base_model is not set.", hint="Give --base-model.")
            return Choice("base_model", base_model, f"{_MODEL_KEY} is 'base_model'.")
        case "vllm":
            writer = qa.vllm.model or base_model
            if writer is None:
                hint = f"Set {_VLLM_KEY}, or give --base-model."
                raise InputError(f"{_MODEL_KEY} is 'vllm', and no model is named.", hint=hint)
            return Choice("vllm", writer, f"{_MODEL_KEY} is 'vllm'.")
        case "auto":
            return _best(qa, base_model=base_model, environment=environment, has_gpu=has_gpu)
        case model:
            return _endpoint(qa, model, environment)


def _endpoint(qa: QaGeneration, model: str, environment: Mapping[str, str]) -> Choice:
    url, origin = server_url(qa.endpoint, _SECTION, environment)
    if not url:
        raise InputError(
            f"{_MODEL_KEY} names the model {model!r}, and no endpoint is configured to ask it.",
            hint=f"Set OPENAI_API_KEY, or OPENAI_BASE_URL or {_URL_KEY} for another server; "
            "or set the model to 'rules', which needs none.",
        )
    return Choice("endpoint", model, f"{_MODEL_KEY} is {model!r}, and {origin} is set.", url)


def _best(qa: QaGeneration, *, base_model: str | None, environment: Mapping[str, str], has_gpu: bool) -> Choice:
    """Return the engine of ``auto``."""
    named = qa.endpoint.model
    url, origin = server_url(qa.endpoint, _SECTION, environment)
    if url and named:
        return Choice("endpoint", named, f"An endpoint is configured: {origin} is set.", url)
    if qa.endpoint.base_url:
        raise InputError(f"{_URL_KEY} is set, and qa_generation.endpoint.model is not.", hint="Name the model to ask.")
    unnamed = f"{origin} is set, but qa_generation.endpoint.model is not; " if url else "No endpoint is configured; "
    if qa.vllm.model:
        return Choice("vllm", qa.vllm.model, f"{unnamed}{_VLLM_KEY} names a model for vLLM.")
    why = why_it_cannot_write(base_model, has_gpu=has_gpu)
    if base_model is None or why:
        return Choice("rules", "", f"{unnamed}{why}, so rules write the pairs.")
    return Choice("base_model", base_model, f"{unnamed}the base model writes the pairs.")


def why_it_cannot_write(base_model: str | None, *, has_gpu: bool) -> str:
    """Return the reason why a base model can't write the pairs; empty if it can, or its size is not known."""
    if base_model is None:
        return "no base model is set either"
    size = _weights_bytes(Path(base_model))
    if size is not None and size < _LEAST_BYTES:
        return "the base model is too small to write"
    if size is not None and size > _MOST_CPU_BYTES and not has_gpu:
        return "the base model needs a GPU to write in minutes"
    return ""


def _weights_bytes(folder: Path) -> int | None:
    """Return the size of a folder's weights; None if there are none."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")] if folder.is_dir() else []
    return sum(sizes) or None
