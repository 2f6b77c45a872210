"""Protocol of an engine: versions by name, tokens in and tokens out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Engine", "FinishReason", "Output", "SamplingParams", "ScoredToken"]

FinishReason = Literal["stop", "length"]
"""Reason for the end of an answer: the model ended it (or a stop text came), or it reached its greatest length."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters, by vLLM's and OpenAI's names.

    Attributes:
        max_tokens: the longest answer; 0 scores the prompt only.
        temperature: divisor of the logits; 0 takes the most probable token.
        top_p: the share of probability, of the most probable tokens, that is drawn from.
        top_k: number of most probable tokens to draw from; 0: all.
        seed: makes drawing repeatable; ``None``: it isn't.
        stop_token_ids: tokens that end an answer, beside the model's own.
        ignore_eos: True if the answer continues after the model's own end.
        logprobs: number of most probable tokens reported with each token; ``None``: no log-probabilities at all.
        prompt_logprobs: likewise of the prompt's tokens.
        first_prompt_logprob: place of the first token of the prompt that they are needed of; engines may tell of
            earlier ones too.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    first_prompt_logprob: int = 1


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, and how probable it was.

    Attributes:
        logprob: the natural logarithm of its probability before temperature and the like; ``None`` where that was not
            asked for, and for a prompt's first token.
        top: the most probable tokens at its place and their log-probabilities, the most probable first.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """One step of an answer.

    Attributes:
        token: the next token; ``None`` where a step only tells of the prompt, or where nothing was to be written.
        finish_reason: reason for the answer's end with this step; ``None``: it goes on.
        prompt: the prompt's tokens, in the first step, where their log-probabilities were asked for.
    """

    token: ScoredToken | None = None
    finish_reason: FinishReason | None = None
    prompt: tuple[ScoredToken, ...] = ()


class Engine(Protocol):
    """A base model and versions of it, each under a name that never changes meaning.

    Every method raises a :class:`~llamafarm_ray.errors.LlamaFarmError` for requests that it can't answer.
    """

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer, as transformers has them, with its chat template."""

    @property
    def writes(self) -> bool:
        """True for an engine that writes text; otherwise it computes vectors of texts."""

    @property
    def loaded(self) -> list[str]:
        """The names that answer, the base model's among them, sorted."""

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load the version in ``folder`` under ``name``."""

    def check_adapter(self, name: str) -> None:
        """Do nothing while the version can answer; raise where it was taken out."""

    async def unload_adapter(self, name: str) -> None:
        """Free a version; answers under way are written to their end."""

    def check_health(self) -> None:
        """Do nothing while answers can be computed; raise where they never will again in this process."""

    def max_model_len(self, name: str) -> int | None:
        """The most tokens that a prompt and its answer may have together; ``None``: no bound is known."""

    def generate(self, name: str, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Output, None]:
        """Write an answer, a step a token; the last step has a ``finish_reason``. Closing it ends the work.

        Args:
            name: the version, or the base model.
            prompt: token ids, one at least.
        """

    async def embed(self, name: str, tokens: Sequence[int]) -> Sequence[float]:
        """The vector of a text of these token ids."""
