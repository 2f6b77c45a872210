"""Kahneman-Tversky optimisation: answers that were liked become likelier, others less so, near the base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from llamafarm_ray.config.sections.objectives import KtoSettings
from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.compute.forward import sequence_log_probs
from llamafarm_ray.training.objectives.base import Loss, Objective
from llamafarm_ray.training.objectives.sequences import answer_row, batch_of, reference_log_probs, sequences_of
from llamafarm_ray.training.rows import IGNORED, TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llamafarm_ray.training.strategies import Strategy

__all__ = ["Exchanged", "KtoObjective", "mismatched"]

DESIRABLE, UNDESIRABLE = 1, 0


@dataclass(frozen=True, slots=True)
class _Context:
    """Facts about a batch's window.

    Args:
        reference: the base model's log-probability of each sequence of the batch, of shape (S,), in nats.
        z0: distance of the model from the base model in nats; not below 0.
        scales: rows of the window for each one that was liked, and for each that was not.
    """

    reference: torch.Tensor
    z0: float
    scales: tuple[float, ...]


class KtoObjective(Objective):
    """KTO (https://arxiv.org/abs/2402.01306): an answer's gain over the base model is measured against ``z0``.

    ``z0`` estimates how far the model is from the base model as a whole, by the gain of answers to other questions. It
    is computed in `prepare` from all rows of the window, on all workers, without gradient and without dropout; less
    than nothing counts as nothing. It does not depend on the division of rows into micro-batches and workers.

    A step counts rows. A window may have rows of one kind only.

    Args:
        settings: the configuration's ``fine_tuning.kto``.
    """

    name: ClassVar[str] = "kto"
    columns: ClassVar[tuple[str, ...]] = ("messages", "label")
    needs_reference: ClassVar[bool] = True

    def __init__(self, settings: KtoSettings | None = None) -> None:
        self.settings = settings or KtoSettings()

    def tokenise(
        self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], max_length: int
    ) -> list[TokenisedRow]:
        """See `Objective.tokenise`: ``messages`` ends with the answer, ``label`` says whether it was liked."""
        messages, label = row["messages"], row["label"]
        if label is None:
            return [TokenisedRow.left_out("no label")]
        if not messages or messages[-1]["role"] != "assistant":
            return [TokenisedRow.left_out("no answer at the end")]
        answer = answer_row(tokenizer, messages[:-1], messages[-1]["content"], max_length)
        if answer.dropped:
            return [answer]
        return [TokenisedRow(answer.input_ids, answer.labels, tag=DESIRABLE if label else UNDESIRABLE)]

    def count(self, batch: Batch) -> int:
        """Rows."""
        return batch.num_rows

    def prepare(self, strategy: Strategy, batches: Sequence[Batch], total: float) -> list[Any]:
        """Return facts about the window: the base model's log-probabilities, ``z0``, and the number of liked rows.

        Workers exchange their rows' tokens, since the answer that a question is paired with may be another worker's.
        """
        references = reference_log_probs(strategy, batches)
        rows = [[Exchanged.of(ids, labels) for ids, labels in sequences_of(batch)] for batch in batches]
        everywhere = [row for of_worker in strategy.gather([row for of in rows for row in of]) for row in of_worker]
        others = mismatched(everywhere, self.max_length)
        pairs = [
            batch_of([others[row] for row in of if row in others], batch)
            for of, batch in zip(rows, batches, strict=True)
        ]
        liked = sum(tag == DESIRABLE for batch in batches for tag in batch.tags)
        gain, num_pairs, num_liked = strategy.sum(
            [self._gain(strategy, pairs), sum(pair.num_rows for pair in pairs), liked]
        )
        z0 = max(0.0, gain / num_pairs) if num_pairs else 0.0
        # The loop divides by all rows; these figures are means over the rows of one kind.
        scales = tuple(total / number if number else 0.0 for number in (num_liked, total - num_liked))
        return [_Context(reference, z0, scales) for reference in references]

    def _gain(self, strategy: Strategy, pairs: Sequence[Batch]) -> float:
        before = reference_log_probs(strategy, pairs)
        was_training = strategy.model.training
        strategy.model.eval()
        try:
            with torch.no_grad(), strategy.autocast():
                now = [sequence_log_probs(strategy.model, pair)[0] for pair in pairs]
        finally:
            strategy.model.train(was_training)
        return sum(float((after - reference).double().sum()) for after, reference in zip(now, before, strict=True))

    def loss(self, model: PreTrainedModel, batch: Batch, context: Any = None) -> Loss:
        """The rows' losses, between 0 and their kind's weight; reported are the rewards of either kind.

        Args:
            batch: of rows, whose tags say which kind they are.
            context: from `prepare`.
        """
        log_probs, _ = sequence_log_probs(model, batch)
        if not batch.num_rows:
            return Loss(log_probs.sum() * 0.0, sums=dict.fromkeys(_FIGURES, log_probs.new_zeros(())))
        ratios = log_probs - context.reference
        liked = torch.tensor(batch.tags, device=ratios.device) == DESIRABLE
        sign = torch.where(liked, 1.0, -1.0)
        weight = torch.where(liked, self.settings.desirable_weight, self.settings.undesirable_weight)
        losses = weight * (1 - torch.sigmoid(self.settings.beta * sign * (ratios - context.z0)))
        rewards = self.settings.beta * ratios.detach()
        figures = (
            rewards * liked * context.scales[0],
            rewards * ~liked * context.scales[1],
            torch.full_like(rewards, context.z0),
        )
        return Loss(losses.sum(), sums={name: each.sum() for name, each in zip(_FIGURES, figures, strict=True)})


_FIGURES = ("desirable_reward", "undesirable_reward", "kl")


@dataclass(frozen=True, order=True, slots=True)
class Exchanged:
    """A row as workers show it to each other.

    Args:
        prompt: tokens before the answer.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def of(cls, ids: np.ndarray, labels: np.ndarray) -> Exchanged:
        """The row of one sequence, cut where the trained tokens begin."""
        start = int(np.argmax(labels != IGNORED))
        return cls(tuple(ids[:start].tolist()), tuple(ids[start:].tolist()))


def mismatched(
    rows: Sequence[Exchanged], max_length: int | None = None
) -> dict[Exchanged, tuple[np.ndarray, np.ndarray]]:
    """Pair each question with the answer to another one.

    The rows are put in the order of their tokens, and each takes the answer of the next one, going round, that has
    another question. So the pairs depend on which rows there are, not on who holds them.

    Args:
        max_length: length to which a pair is cut, as rows are; None: none is.

    Returns:
        Tokens and labels of each row's pair; none for a row in a window without another question.
    """
    ordered = sorted(set(rows))
    pairs = {}
    for index, row in enumerate(ordered):
        after = (*ordered[index + 1 :], *ordered[:index])
        other = next((other for other in after if other.prompt != row.prompt), None)
        if other is not None:
            ids = np.array([*row.prompt, *other.answer][:max_length])
            labels = ids.copy()
            labels[: len(row.prompt)] = IGNORED
            pairs[row] = (ids, labels)
    return pairs
