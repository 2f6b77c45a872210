"""Retrievers of the user's own, for questions about a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import Field

from llamafarm_ray.config.sections.base import Section, Unused, section

__all__ = ["EmbeddingServer", "Retriever"]

_ADDRESS: Final = r"^https?://[^/?#@]+(/[^?#@]*)?$"
"""An address without a user, a password or a query: keys come from the environment."""


class EmbeddingServer(Section):
    """A server with OpenAI's embeddings, in place of the vectors of the retriever here."""

    model: str | None = Field(
        default=None, min_length=1, description="Name of the embedding model there; unset: the vectors of this package."
    )
    base_url: str | None = Field(
        default=None,
        pattern=_ADDRESS,
        description="Address up to '/v1'; unset: $OPENAI_BASE_URL, or OpenAI's own if the key is set.",
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY", min_length=1, description="Environment variable that holds the key."
    )
    query_prefix: str = Field(default="", description="Text before each question, as in 'query: '.")
    passage_prefix: str = Field(default="", description="Text before each passage, as in 'passage: '.")
    concurrency: int = Field(default=8, ge=1, le=1024, description="Most requests at once.")
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="Longest wait for one answer.")
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="Attempts of a request that fails for a while: 429, 5xx, time-outs."
    )

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is asked there without a model."""
        if self.model is not None:
            return {}
        names = (
            "base_url",
            "api_key_env",
            "query_prefix",
            "passage_prefix",
            "concurrency",
            "timeout_s",
            "max_attempts",
        )
        return dict.fromkeys(names, Unused("model", "has no effect while {1} is not set."))


class Retriever(Section):
    """The retriever that finds passages for questions."""

    url: str | None = Field(
        default=None,
        pattern=_ADDRESS,
        description="Address of a retriever of your own, which gets POST requests with query and k; unset: the "
        "retriever here searches evaluation.corpus.",
    )
    api_key_env: str = Field(
        default="RETRIEVER_API_KEY", min_length=1, description="Environment variable that holds its key."
    )
    concurrency: int = Field(default=8, ge=1, le=1024, description="Most requests at once.")
    timeout_s: float = Field(default=60.0, gt=0, le=3600, description="Longest wait for one answer.")
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="Attempts of a request that fails for a while: 429, 5xx, time-outs."
    )
    embeddings: EmbeddingServer = section(EmbeddingServer, "An embedding model for the retriever here.")

    def unused(self) -> Mapping[str, Unused]:
        """A retriever of the user's own needs no embeddings, and without one nothing is sent."""
        if self.url is not None:
            return {"embeddings": Unused("url", "has no effect while {1} is set.")}
        names = ("api_key_env", "concurrency", "timeout_s", "max_attempts")
        return dict.fromkeys(names, Unused("url", "has no effect while {1} is not set."))
