"""Limits of each key at a deployment."""

from __future__ import annotations

from pydantic import Field

from llamafarm_ray.config.sections.base import Section

__all__ = ["Limits"]


class Limits(Section):
    """Limits of each key, and of waiting requests."""

    requests_per_minute: float | None = Field(
        default=None, gt=0, le=1e9, description="Requests a minute for each key; a minute's worth may come at once."
    )
    tokens_per_minute: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="Tokens a minute for each key, prompts and answers, counted when a request has ended; what was "
        "taken beyond it is waited for.",
    )
    concurrent_requests: int | None = Field(
        default=None,
        ge=1,
        le=1000000,
        description="Requests of each key at the same time, waiting ones too, at each replica.",
    )
    max_prompt_tokens: int | None = Field(
        default=None, ge=1, description="Longest prompt; unset: what the model can hold."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="Longest answer, and a request's default; unset: the model's."
    )
    max_choices: int = Field(
        default=128, ge=1, le=16384, description="Most answers to one request: n or best_of, for each of its prompts."
    )
    max_body_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1024, le=2**31, description="Largest body of a request, in bytes."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that a request's body may take to arrive."
    )
    running_requests: int = Field(
        default=256,
        ge=1,
        le=65536,
        description="Requests that the engine of a replica works on at once (its max_num_seqs); the others wait, and "
        "the keys take turns by the tokens they were served.",
    )
    queued_requests: int = Field(
        default=1024,
        ge=0,
        le=1000000,
        description="Requests that wait at a replica; beyond that, those of the key with the most are refused.",
    )
    queue_timeout_s: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds that a request waits for its turn before it is refused."
    )
    cold_start_requests: int = Field(
        default=1024,
        ge=0,
        le=1000000,
        description="Requests that wait while no replica runs, because it is being started; beyond that, refused.",
    )
    cold_start_timeout_s: float = Field(
        default=300.0, gt=0, le=3600, description="Seconds that such a request waits for its answer to begin."
    )
