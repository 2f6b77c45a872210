"""Examples made from passages: the engine, its settings, and the kinds of examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Names, Section, Unused, as_tuple, section
from llamafarm_ray.config.values import FrozenMapping

__all__ = ["PHRASINGS", "Difficulty", "Endpoint", "PairKind", "QaGeneration", "Server", "VllmEngine"]

PairKind = Literal[
    "questions",
    "instructions",
    "dialogues",
    "summaries",
    "query_rewrites",
    "tool_calls",
    "retrieval",
    "preferences",
]
"""Kinds of examples that are made from passages."""

Difficulty = Literal["easy", "medium", "hard"]

_ALONE: tuple[PairKind, ...] = ("retrieval", "preferences")
"""Kinds whose rows are no chats, so that a dataset holds nothing else beside them."""

PHRASINGS = 2
"""Ways that rules and endpoints ask for each fact, unless the configuration says."""


class Server(Section):
    """A server with OpenAI's chat completions, and the limits for asking it."""

    base_url: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^https?://",
        description="Address up to '/v1'; unset: $OPENAI_BASE_URL, or OpenAI's own if the key is set.",
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY", min_length=1, description="Environment variable that holds the key."
    )
    concurrency: int = Field(default=8, ge=1, le=1024, description="Most requests at once.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Most requests a minute; null: no limit.")
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Most tokens a minute, prompts and answers together; null: no limit."
    )
    max_cost_usd: float | None = Field(
        default=None,
        gt=0,
        description="Stop before a run of the build costs more for pairs, or for invented and changed examples; needs "
        "both prices. null: no limit.",
    )
    input_usd_per_million_tokens: float | None = Field(default=None, ge=0, description="Price of prompts.")
    output_usd_per_million_tokens: float | None = Field(default=None, ge=0, description="Price of answers.")
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="Longest wait for one answer.")
    max_attempts: int = Field(
        default=8, ge=1, le=100, description="Attempts of a request that fails for a while: 429, 5xx, time-outs."
    )
    max_output_tokens: int = Field(default=4096, ge=16, le=131072, description="Longest answer in tokens.")

    def unused(self) -> Mapping[str, Unused]:
        """A limit of cost can't be kept without prices."""
        if self.input_usd_per_million_tokens is not None and self.output_usd_per_million_tokens is not None:
            return {}
        missing = "input" if self.input_usd_per_million_tokens is None else "output"
        return {"max_cost_usd": Unused(f"{missing}_usd_per_million_tokens", "has no effect while {1} is not set.")}


class Endpoint(Server):
    """A server that writes pairs."""

    model: str | None = Field(
        default=None, min_length=1, description="Model to ask where qa_generation.model is 'auto'."
    )
    temperature: float = Field(default=0.3, ge=0, le=2, description="Sampling temperature.")
    batch: bool = Field(
        default=False,
        description="Ask through the server's batch API (/v1/files, /v1/batches): cheaper, and answered within a day.",
    )
    batch_price_factor: float = Field(
        default=0.5, ge=0, le=1, description="Price of a request in a batch, in parts of the usual one."
    )

    def unused(self) -> Mapping[str, Unused]:
        """A price of batches is for batches."""
        unused = {} if self.batch else {"batch_price_factor": Unused("batch", "has no effect while {1} is false.")}
        return {**super().unused(), **unused}


class VllmEngine(Section):
    """A model that writes pairs in vLLM on the cluster's own machines."""

    model: str | None = Field(
        default=None,
        min_length=1,
        description="The model: a folder or a reference of the registry; unset: base_model. If it is set, "
        "qa_generation.model 'auto' takes it.",
    )
    replicas: int = Field(default=1, ge=1, le=1024, description="Most engines at once, each on devices of its own.")
    max_model_len: int = Field(
        default=8192, ge=64, description="Longest prompt and answer in tokens; never more than the model can take."
    )
    temperature: float = Field(default=0.3, ge=0, le=2, description="Sampling temperature.")
    max_output_tokens: int = Field(default=2048, ge=16, le=131072, description="Longest answer in tokens.")
    engine_kwargs: Annotated[Mapping[str, bool | int | float | str | None], AfterValidator(FrozenMapping)] = Field(
        default_factory=FrozenMapping, description="Further options of vLLM, such as tensor_parallel_size."
    )


class QaGeneration(Section):
    """Questions and answers made from passages."""

    enabled: bool = Field(default=True, description="Make question and answer pairs from the documents.")
    questions_per_doc: int | None = Field(
        default=None, ge=1, description="Most different questions per document; null: as many as are found."
    )
    phrasings: int | None = Field(
        default=None,
        ge=1,
        le=4,
        description="Most ways each fact is asked for; with several, some are held out of training. Unset: 2, and 4 "
        "where the base model writes.",
    )
    passes: Literal["auto"] | Annotated[int, Field(ge=1, le=100)] = Field(
        default="auto",
        description="Passes over the facts in the training split, each in other words; one epoch then covers them all. "
        "For pairs of the base model; 'auto': 8 there, else 1.",
    )
    model: str = Field(
        default="auto",
        min_length=1,
        description="Engine that writes the pairs: 'rules' needs no model, 'base_model' asks the base model itself, "
        "'vllm' runs a model in vLLM on the cluster, 'auto' takes an endpoint that is configured, else a model that "
        "is named for vLLM, else the base model if it can, else rules, and any other name is a model of an "
        "OpenAI-compatible endpoint.",
    )
    unanswerable: bool = Field(
        default=False,
        description="Ask an endpoint or vLLM for questions too that a passage does not answer; they get a refusal.",
    )
    kinds: Annotated[tuple[PairKind, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("questions",),
        description="Kinds of examples to make. 'retrieval' (query, passage, hard negatives) and 'preferences' (chosen "
        "and rejected answers) stand alone and need no endpoint; the others make one set of chats and, but for "
        "questions, need one, or vLLM.",
    )
    tools: str | None = Field(
        default=None,
        min_length=1,
        description="File with the tools that 'tool_calls' are written for, JSON or YAML: a list in OpenAI's or MCP's "
        "form, or an OpenAPI description.",
    )
    personas: Names = Field(
        default=(), description="People to write as, 'a new employee': an endpoint or vLLM takes one for each passage."
    )
    difficulty: Annotated[Mapping[Difficulty, Annotated[float, Field(gt=0)]], AfterValidator(FrozenMapping)] = Field(
        default_factory=FrozenMapping,  # type: ignore[arg-type]  # an empty mapping has keys of any type
        description="Weights of easy, medium and hard examples, {easy: 2, hard: 1}, for an endpoint or vLLM; {}: "
        "its own mix.",
    )
    endpoint: Endpoint = section(Endpoint, "The server that a model's name refers to.")
    vllm: VllmEngine = section(VllmEngine, "The model that writes in vLLM on the cluster.")

    def mistakes(self) -> Iterator[Mistake]:
        """A dataset has rows of one kind."""
        alone = [kind for kind in _ALONE if kind in self.kinds]
        if len(set(self.kinds)) < len(self.kinds):
            yield Mistake(("kinds",), "names a kind twice.")
        elif alone and len(self.kinds) > 1:
            yield Mistake(("kinds",), f"has {alone[0]} beside other kinds, whose rows differ; make two datasets.")
        if "tool_calls" in self.kinds and self.tools is None:
            yield Mistake(("tools",), "is not set, and kinds has tool_calls.")
        if "tool_calls" not in self.kinds and self.tools is not None:
            yield Mistake(("tools",), "is set, and kinds has no tool_calls.")

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is generated when it is off; the endpoint and vLLM may have other work."""
        if self.enabled:
            return {}
        reason = Unused("enabled", "has no effect while {1} is false.")
        keys = (
            "questions_per_doc",
            "phrasings",
            "passes",
            "model",
            "unanswerable",
            "kinds",
            "tools",
            "personas",
            "difficulty",
        )
        return dict.fromkeys(keys, reason)
