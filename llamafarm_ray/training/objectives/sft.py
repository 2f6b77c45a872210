"""Supervised fine-tuning: learn the assistant's turns, given the turns before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch.nn import functional

from llamafarm_ray.models.chat import tokenise_turns
from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.compute.forward import trained_logits
from llamafarm_ray.training.objectives.base import Loss, Objective
from llamafarm_ray.training.objectives.sequences import cut_row
from llamafarm_ray.training.rows import IGNORED, TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["SftObjective"]


class SftObjective(Objective):
    """Cross-entropy over the tokens of assistant turns; prompt tokens are context only."""

    name: ClassVar[str] = "sft"

    def tokenise(
        self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], max_length: int
    ) -> list[TokenisedRow]:
        """See `Objective.tokenise`.

        A chat is one row; or, where the template renders earlier turns differently once others follow, a row for each
        assistant turn (see `tokenise_turns`). One longer than ``max_length`` tokens loses its end. If nothing of an
        answer is left then, because the prompt alone is too long, it is dropped rather than trained on a cut prompt.
        """
        chats = tokenise_turns(tokenizer, row["messages"], row.get("tools"))
        if not chats:
            return [TokenisedRow.left_out("no assistant turn to train")]
        return [cut_row(chat, max_length) for chat in chats]

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return batch.num_trained

    def loss(self, model: PreTrainedModel, batch: Batch, context: object = None) -> Loss:
        """The sum of the trained tokens' cross-entropies in nats."""
        del context
        found = trained_logits(model, batch)
        return Loss(
            functional.cross_entropy(found.logits.float(), found.targets, ignore_index=IGNORED, reduction="sum")
        )
