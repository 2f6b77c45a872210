"""Engines that answer prompts and tell losses: one protocol for examples, questions, sets of your own and risks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

from llamafarm_ray.evaluation.kept import KeptBatches
from llamafarm_ray.evaluation.progress import Report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llamafarm_ray.evaluation.generation import Generated
    from llamafarm_ray.evaluation.losses import Loss, Scored

__all__ = ["TOKEN_ENGINES", "Backend", "Engine"]

Backend = Literal["transformers", "vllm", "gguf", "endpoint"]

TOKEN_ENGINES: Final = {
    "vllm": "llamafarm_ray.workflows.evaluation.vllm_engine:VllmTokens",
    "gguf": "llamafarm_ray.workflows.evaluation.gguf_engine:GgufTokens",
    "endpoint": "llamafarm_ray.evaluation.engines.endpoint:open_endpoint",
}
"""The class or function of each `TokenEngine`, as ``module:name``; it takes the options of a model on that backend."""


class Engine(Protocol):
    """A model on a backend, and its base without the adapter."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, as transformers has them."""

    @property
    def max_length(self) -> int | None:
        """The most tokens of a prompt with its answer; None where no bound is known."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        report: Report,
        *,
        with_adapter: bool = True,
        kept: KeptBatches | None = None,
    ) -> list[Generated]:
        """Return the most probable answer, token by token, to each prompt, in the prompts' order.

        Args:
            prompts: token ids of the prompts.
            report: called with the share that is done.
            with_adapter: False asks the base without the adapter.
            kept: answers of an evaluation that was killed; None keeps none.
        """

    def losses(
        self,
        sequences: Sequence[Scored],
        report: Report,
        what: str,
        *,
        with_adapter: bool = True,
        kept: KeptBatches | None = None,
    ) -> list[Loss]:
        """Return the loss of each sequence, in their order.

        Args:
            report: called with the share that is done.
            with_adapter: False asks the base without the adapter.
            kept: losses of an evaluation that was killed; None keeps none.
        """

    def close(self) -> None:
        """Free the model's memory, and end the processes that were started for it."""
