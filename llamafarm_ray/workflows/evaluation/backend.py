"""The engine of an evaluation, and the model in the form that it opens."""

from __future__ import annotations

import importlib.util

from llamafarm_ray.config.sections.evaluation import Backend, Evaluation
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.evaluation.benchmarks.asked import AskedModel
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel

__all__ = ["asked_models", "backend_of", "check_backend", "endpoint_of", "measured_on"]

_MODULES = {"vllm": ("vllm", "vLLM"), "gguf": ("xllamacpp", "llama.cpp")}


def backend_of(settings: Evaluation, model: EvaluatedModel) -> Backend:
    """Return the engine that a model is asked on."""
    if settings.backend is not None:
        return settings.backend
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
            f"{model.model_id} is asked on {backend}, and {rival.model_id} on "
            f"{backend_of(settings, rival)}: their scores can't be compared.",
            hint="Set evaluation.backend to one that takes both, or leave --baseline out.",
        )
    for one in (model, rival):
        if one is not None:
            _check_files(backend, one)
    if backend == "endpoint":
        if settings.endpoint.base_url is None:
            raise InputError("Backend endpoint needs an address.", hint="Set evaluation.endpoint.base_url.")
        if rival is not None:
            raise InputError(
                "An endpoint has no baseline: one endpoint is asked at a time.",
                hint="Evaluate the other model by itself, and compare both with `llamafarm models leaderboard`.",
            )
    module, name = _MODULES.get(backend, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise UnsupportedError(
            f"Backend {backend} needs {name}, which is not installed.",
            hint=f"pip install 'llamafarm_ray[{'gguf' if backend == 'gguf' else 'cpu'}]'",
        )


def measured_on(settings: Evaluation, model: EvaluatedModel, kept: KeptBatches | None = None) -> MeasuredModel:
    """Return a model with the engine that it is asked on.

    Args:
        kept: keeps the answers of the evaluation; None keeps none.
    """
    backend = backend_of(settings, model)
    return MeasuredModel(
        model.base.absolute(),
        model.adapter and model.adapter.absolute(),
        model.weights,
        model.base_weights,
        kept,
        backend,
        endpoint_of(settings, model) if backend == "endpoint" else None,
    )


def asked_models(
    settings: Evaluation, model: EvaluatedModel, rival: EvaluatedModel | None
) -> tuple[AskedModel, AskedModel | None]:
    """Return a model and its baseline, the rival or an adapter's base, as benchmarks ask them.

    An endpoint is asked for the model alone.
    """
    measured = measured_on(settings, model)
    asked = AskedModel(measured.backend, measured.options, measured.weights, keeps=measured.endpoint is None)
    if rival is not None:
        other = measured_on(settings, rival)
        return asked, AskedModel(other.backend, other.options, other.weights)
    if not measured.has_base:
        return asked, None
    return asked, AskedModel(measured.backend, measured.options, model.base_weights, with_adapter=False)


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


def _check_files(backend: Backend, model: EvaluatedModel) -> None:
    if model.is_gguf and backend != "gguf":
        raise InputError(
            f"{model.model_id} is a GGUF file, which backend {backend} does not take.",
            hint="Leave evaluation.backend out, or set it to gguf.",
        )
    if backend == "gguf" and not model.is_gguf:
        raise InputError(f"{model.model_id} is no GGUF file.", hint="Use another evaluation.backend.")
