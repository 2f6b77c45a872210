"""Questions and answers made from passages: the engine and its settings."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from llamafarm_ray.config.base import Section, Unused, section

__all__ = ["PHRASINGS", "Endpoint", "QaGeneration", "Server"]

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
        default=None, gt=0, description="Stop before a run of the build costs more; needs both prices. null: no limit."
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
    model: str = Field(
        default="auto",
        min_length=1,
        description="Engine that writes the pairs: 'rules' needs no model, 'base_model' asks the base model itself, "
        "'auto' takes an endpoint that is configured, else the base model if it can, else rules, and any other name "
        "is a model of an OpenAI-compatible endpoint.",
    )
    unanswerable: bool = Field(
        default=False, description="Ask a model for questions too that a passage does not answer; they get a refusal."
    )
    endpoint: Endpoint = section(Endpoint, "The server that a model's name refers to.")

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is generated when it is off."""
        if self.enabled:
            return {}
        reason = Unused("enabled", "has no effect while {1} is false.")
        return dict.fromkeys(("questions_per_doc", "phrasings", "model", "unanswerable", "endpoint"), reason)
