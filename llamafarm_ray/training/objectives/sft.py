"""Supervised fine-tuning: learn to write what the assistant says, given what came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from llamafarm_ray.models.chat import tokenise_chat
from llamafarm_ray.training.batches import IGNORED, Batch

__all__ = ["SftObjective", "TokenisedRow"]


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """A row ready for training, or the reason why it is not.

    Args:
        input_ids: tokens, at most ``max_length``.
        labels: the same tokens where they are trained, ``IGNORED`` (-100) elsewhere.
        dropped: why the row is left out; empty where it isn't.
    """

    input_ids: list[int]
    labels: list[int]
    dropped: str = ""


class SftObjective:
    """Cross-entropy over the tokens of assistant turns; prompt tokens are context only."""

    name: ClassVar[str] = "sft"

    @staticmethod
    def tokenise(tokenizer: Any, messages: Sequence[dict[str, str]], max_length: int) -> TokenisedRow:
        """Turn messages into tokens and labels.

        A chat longer than ``max_length`` tokens loses its end. If nothing of an answer is left then,
        because the prompt alone is too long, the row is dropped rather than trained on a cut prompt.

        Raises:
            UserError: the chat template is missing, or can't render the messages.
        """
        if not any(message["role"] == "assistant" for message in messages):
            return TokenisedRow([], [], "no assistant turn")
        chat = tokenise_chat(tokenizer, messages)
        input_ids = chat.input_ids[:max_length]
        # The first token has nothing before it, so it can't be predicted.
        trained = [False, *chat.trained[1:max_length]]
        if not any(trained):
            return TokenisedRow([], [], "prompt longer than max_length" if any(chat.trained) else "empty answer")
        labels = [token if train else IGNORED for token, train in zip(input_ids, trained, strict=True)]
        return TokenisedRow(input_ids, labels)

    @staticmethod
    def loss(model: Any, batch: Batch) -> torch.Tensor:
        """The sum (not the mean) of the trained tokens' cross-entropies in nats: a scalar in fp32.

        Sums add up over micro-batches and workers, so the caller divides once by the tokens of them all.
        """
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        # The logits at one position are about the token at the next.
        return functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
