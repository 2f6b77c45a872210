"""The engine that benchmarks are asked on, and a model as it opens it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from llamafarm_ray.config.evaluation import Backend, Evaluation
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.benchmarks.backends.served import Endpoint
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel

__all__ = ["asked_models", "backend_of", "check_backend", "endpoint_of"]

_MODULES = {"vllm": ("vllm", "vLLM"), "gguf": ("xllamacpp", "llama.cpp")}
_LONGEST = 2048
"""Tokens that a model behind an endpoint reads, where its config does not say: lm-eval's own default."""


def backend_of(settings: Evaluation, model: EvaluatedModel) -> Backend:
    """Return the engine that a model's benchmarks are asked on."""
    if settings.benchmark_backend is not None:
        return settings.benchmark_backend
    if settings.endpoint.base_url is not None:
        return "endpoint"
    return "gguf" if model.is_gguf else "transformers"


def check_backend(settings: Evaluation, model: EvaluatedModel, rival: EvaluatedModel | None) -> None:
    """Check that the engine is there and takes the models.

    Raises:
        InputError: it needs other files or an address, or model and rival are asked on different engines.
        UnsupportedError: it is not installed.
    """
    backend = backend_of(settings, model)
    if rival is not None and backend_of(settings, rival) != backend:
        raise InputError(
            f"Benchmarks of {model.model_id} are asked on {backend}, and those of {rival.model_id} on "
            f"{backend_of(settings, rival)}: their scores can't be compared.",
            hint="Set evaluation.benchmark_backend to one that takes both, or leave --baseline out.",
        )
    for one in (model, rival):
        if one is not None:
            _check_files(backend, one)
    if backend == "endpoint":
        if settings.endpoint.base_url is None:
            raise InputError("Backend endpoint needs an address.", hint="Set evaluation.endpoint.base_url.")
        if rival is not None:
            raise InputError(
                "An endpoint's benchmarks have no baseline: one endpoint is asked at a time.",
                hint="Evaluate the other model by itself, and compare both with `llamafarm models leaderboard`.",
            )
    module, name = _MODULES.get(backend, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise UnsupportedError(
            f"Backend {backend} needs {name}, which is not installed.",
            hint=f"pip install 'llamafarm_ray[{'gguf' if backend == 'gguf' else 'cpu'}]'",
        )


def asked_models(
    settings: Evaluation, model: EvaluatedModel, rival: EvaluatedModel | None
) -> tuple[AskedModel, AskedModel | None]:
    """Return a model and what it is compared with, the rival or an adapter's base, as the engine opens them.

    An endpoint is asked for the model alone.
    """
    backend = backend_of(settings, model)
    if backend == "endpoint":
        return AskedModel(backend, _endpoint_options(settings, model), model.weights, keeps=False), None
    asked = AskedModel(backend, _options(model), model.weights)
    if rival is not None:
        return asked, AskedModel(backend, _options(rival), rival.weights)
    if model.adapter is None:
        return asked, None
    return asked, AskedModel(backend, _options(model), model.base_weights, with_adapter=False)


def _options(model: EvaluatedModel) -> dict[str, object]:
    return {"base": model.base.absolute(), "adapter": model.adapter and model.adapter.absolute()}


def endpoint_of(settings: Evaluation, model: EvaluatedModel) -> Endpoint:
    """Return the endpoint that a model is asked on, with the model's name there."""
    given = settings.endpoint
    return Endpoint(
        base_url=str(given.base_url),
        model=given.model or model.version or model.model_id,
        version=model.version,
        api_key_env=given.api_key_env,
        concurrency=given.concurrency,
        timeout_s=given.timeout_s,
        max_attempts=given.max_attempts,
    )


def _endpoint_options(settings: Evaluation, model: EvaluatedModel) -> dict[str, object]:
    endpoint = endpoint_of(settings, model)
    return {"endpoint": endpoint, "tokenizer": model.base.absolute(), "max_length": _max_length(model.base)}


def _max_length(folder: Path) -> int:
    config = folder / "config.json"
    known = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    length = known.get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else _LONGEST


def _check_files(backend: Backend, model: EvaluatedModel) -> None:
    if model.is_gguf and backend != "gguf":
        raise InputError(
            f"{model.model_id} is a GGUF file, which backend {backend} does not take.",
            hint="Leave evaluation.benchmark_backend out, or set it to gguf.",
        )
    if backend == "gguf" and not model.is_gguf:
        raise InputError(f"{model.model_id} is no GGUF file.", hint="Use another evaluation.benchmark_backend.")
