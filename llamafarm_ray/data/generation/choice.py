"""Choose the engine that writes the questions and answers, and say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.errors import InputError

__all__ = ["Choice", "Generator", "choose_generator"]

Generator = Literal["rules", "endpoint", "base_model"]

_WITHOUT_ENDPOINT = ("questions", "retrieval", "preferences")
"""Kinds that are made from any engine's questions and answers."""

_OFFICIAL_URL = "https://api.openai.com/v1"
_MODEL_KEY, _URL_KEY = (
    "dataset.preprocessing.qa_generation.model",
    "dataset.preprocessing.qa_generation.endpoint.base_url",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine of a build.

    Args:
        generator: the engine.
        model: name or folder of the model; empty for rules.
        base_url: address of the endpoint; empty for the other engines.
        reason: a sentence for the report.
    """

    generator: Generator
    model: str
    reason: str
    base_url: str = ""


def choose_generator(qa: QaGeneration, *, base_model: str | None, environment: Mapping[str, str]) -> Choice:
    """Choose the engine for ``qa_generation.model``.

    ``auto`` takes the endpoint that is configured, else the base model, else the rules. An endpoint that only the
    environment names is taken by ``auto`` if ``endpoint.model`` says which model to ask: a key that lies in the
    environment for something else must not spend money.

    Args:
        qa: the section of the configuration.
        base_model: ``base_model`` of the configuration.
        environment: environment variables.

    Raises:
        InputError: a model is named and no endpoint is configured, the base model is wanted and there is none, or
            something is asked for that only an endpoint makes.
    """
    choice = _chosen(qa, base_model=base_model, environment=environment)
    if choice.generator != "endpoint":
        _require_no_endpoint(qa, choice)
    return choice


def _require_no_endpoint(qa: QaGeneration, choice: Choice) -> None:
    """Refuse what rules and base models don't make."""
    asked = {"kinds": [kind for kind in qa.kinds if kind not in _WITHOUT_ENDPOINT], "personas": qa.personas}
    asked |= {"difficulty": list(qa.difficulty)}
    found = [f"{name} ({', '.join(values)})" for name, values in asked.items() if values]
    if found:
        raise InputError(
            f"dataset.preprocessing.qa_generation: {' and '.join(found)} need an endpoint. {choice.reason}",
            hint=f"Set {_MODEL_KEY} to a model of an endpoint.",
        )


def _chosen(qa: QaGeneration, *, base_model: str | None, environment: Mapping[str, str]) -> Choice:
    model, named = qa.model, qa.endpoint.model
    if model == "rules":
        return Choice("rules", "", f"{_MODEL_KEY} is 'rules'.")
    if model == "base_model":
        if base_model is None:
            raise InputError(f"{_MODEL_KEY} is 'base_model', and base_model is not set.", hint="Give --base-model.")
        return Choice("base_model", base_model, f"{_MODEL_KEY} is 'base_model'.")
    url, origin = _endpoint(qa, environment)
    if model != "auto":
        if not url:
            raise InputError(
                f"{_MODEL_KEY} names the model {model!r}, and no endpoint is configured to ask it.",
                hint=f"Set OPENAI_API_KEY, or OPENAI_BASE_URL or {_URL_KEY} for another server; "
                "or set the model to 'rules', which needs none.",
            )
        return Choice("endpoint", model, f"{_MODEL_KEY} is {model!r}, and {origin} is set.", url)
    if url and named:
        return Choice("endpoint", named, f"An endpoint is configured: {origin} is set.", url)
    if qa.endpoint.base_url:
        raise InputError(f"{_URL_KEY} is set, and qa_generation.endpoint.model is not.", hint="Name the model to ask.")
    unnamed = f"{origin} is set, but qa_generation.endpoint.model is not; " if url else "No endpoint is configured; "
    if base_model is not None:
        return Choice("base_model", base_model, f"{unnamed}the base model writes the pairs.")
    return Choice("rules", "", f"{unnamed}no base model is set either, so rules write the pairs.")


def _endpoint(qa: QaGeneration, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the endpoint's URL and the name of the setting it comes from; both empty if there is none."""
    if qa.endpoint.base_url:
        return qa.endpoint.base_url, _URL_KEY
    if environment.get("OPENAI_BASE_URL"):
        return environment["OPENAI_BASE_URL"], "OPENAI_BASE_URL"
    if environment.get(qa.endpoint.api_key_env):
        return _OFFICIAL_URL, qa.endpoint.api_key_env
    return "", ""
