"""Direct preference optimisation: make the chosen answer likelier than the rejected one, near the base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from llamafarm_ray.config.sections.objectives import DpoSettings
from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.compute.forward import sequence_log_probs
from llamafarm_ray.training.objectives.base import Loss, Objective
from llamafarm_ray.training.objectives.sequences import answer_row, reference_log_probs
from llamafarm_ray.training.rows import TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llamafarm_ray.training.strategies import Strategy

__all__ = ["DpoObjective", "pair_losses"]


class DpoObjective(Objective):
    """DPO (https://arxiv.org/abs/2305.18290), with IPO's (https://arxiv.org/abs/2310.12036) and SLiC's
    (https://arxiv.org/abs/2305.10425) losses.

    A row is two sequences with the same prompt, the chosen answer's first; a step counts pairs. The base model's
    log-probabilities are computed in `prepare`, once a step, without dropout.

    Args:
        settings: the configuration's ``fine_tuning.dpo``.
    """  # noqa: D205 - addresses

    name: ClassVar[str] = "dpo"
    columns: ClassVar[tuple[str, ...]] = ("messages", "chosen", "rejected")
    needs_reference: ClassVar[bool] = True

    def __init__(self, settings: DpoSettings | None = None) -> None:
        self.settings = settings or DpoSettings()

    def tokenise(
        self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], max_length: int
    ) -> list[TokenisedRow]:
        """See `Objective.tokenise`: ``messages`` is the prompt, ``chosen`` and ``rejected`` are the answers' texts.

        Answers lose what is beyond ``max_length``. A pair that is alike then says nothing, and is dropped.
        """
        pair = [answer_row(tokenizer, row["messages"], row[key], max_length) for key in ("chosen", "rejected")]
        for answer in pair:
            if answer.dropped:
                return [answer]
        chosen, rejected = pair
        if chosen.input_ids == rejected.input_ids:
            alike = row["chosen"] == row["rejected"]
            return [TokenisedRow.left_out("chosen and rejected are alike" + (" up to max_length" if not alike else ""))]
        return [
            TokenisedRow(
                chosen.input_ids + rejected.input_ids,
                chosen.labels + rejected.labels,
                lengths=[len(chosen.input_ids), len(rejected.input_ids)],
            )
        ]

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return batch.num_rows

    def prepare(self, strategy: Strategy, batches: Sequence[Batch], total: float) -> list[Any]:
        """For each batch the base model's log-probability of each sequence, of shape (S,)."""
        del total
        return list(reference_log_probs(strategy, batches))

    def loss(self, model: PreTrainedModel, batch: Batch, context: Any = None) -> Loss:
        """The pairs' losses; reported are the rewards, ``beta`` times how much likelier an answer became.

        Args:
            context: from `prepare`.
        """
        log_probs, num_tokens = sequence_log_probs(model, batch)
        if not batch.num_rows:
            return Loss(log_probs.sum() * 0.0, sums=dict.fromkeys(_FIGURES, log_probs.new_zeros(())))
        ratios = log_probs - context
        losses = pair_losses(ratios[0::2], ratios[1::2], num_tokens[0::2], num_tokens[1::2], self.settings)
        rewards = self.settings.beta * ratios.detach()
        chosen, rejected = rewards[0::2], rewards[1::2]
        figures = ((chosen > rejected).float(), chosen - rejected, chosen, rejected)
        return Loss(losses.sum(), sums={name: each.sum() for name, each in zip(_FIGURES, figures, strict=True)})


_FIGURES = ("reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward")


def pair_losses(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_tokens: torch.Tensor,
    rejected_tokens: torch.Tensor,
    settings: DpoSettings,
) -> torch.Tensor:
    """The loss of each pair.

    Args:
        chosen: log-probability of the chosen answers under the trained model less that under the base model, of
            shape (P,), in nats.
        rejected: likewise of the rejected ones.
        chosen_tokens: trained tokens of the chosen answers, of shape (P,).
        rejected_tokens: likewise.
        settings: beta, which loss, and label smoothing (https://ericmitchell.ai/cdpo.pdf).

    Returns:
        Losses of shape (P,). IPO's takes the mean over an answer's tokens, as its authors and TRL do, or long
        answers would have to be a margin apart that short ones can't reach.
    """
    beta = settings.beta
    if settings.loss_type == "ipo":
        margin = chosen / chosen_tokens - rejected / rejected_tokens
        return (margin - 1 / (2 * beta)) ** 2
    margin = beta * (chosen - rejected)
    if settings.loss_type == "hinge":
        return functional.relu(1 - margin)
    swapped = settings.label_smoothing
    return -(1 - swapped) * functional.logsigmoid(margin) - swapped * functional.logsigmoid(-margin)
