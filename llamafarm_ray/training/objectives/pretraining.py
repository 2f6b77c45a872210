"""Continued pre-training: learn to write plain text, every token of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from llamafarm_ray.training.objectives.sft import SftObjective
from llamafarm_ray.training.rows import IGNORED, TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PretrainingObjective"]


class PretrainingObjective(SftObjective):
    """Cross-entropy over all tokens of a text. A long text is cut into pieces, none of it is left out."""

    name: ClassVar[str] = "pretraining"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    needs_chat_template: ClassVar[bool] = False

    def tokenise(
        self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, object], max_length: int
    ) -> list[TokenisedRow]:
        """See `Objective.tokenise`.

        A text begins with the tokenizer's begin-of-text token, if it has one, and ends with its end-of-text token.
        Each piece but the first begins with the last token of the one before, so that every token is predicted once.
        """
        ids = list(tokenizer(row["text"], add_special_tokens=False)["input_ids"])
        if not ids:
            return [TokenisedRow.left_out("empty text")]
        if tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id, *ids]
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) == 1:
            return [TokenisedRow.left_out("text of one token")]
        pieces = (ids[start : start + max_length] for start in range(0, len(ids) - 1, max_length - 1))
        return [TokenisedRow(piece, [IGNORED, *piece[1:]]) for piece in pieces]
