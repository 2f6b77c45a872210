"""Contrastive training of embeddings: a text is nearer to its match than to everything else that a step sees."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from llamafarm_ray.config.sections.objectives import ContrastiveSettings
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.loading import Task
from llamafarm_ray.models.sentence_files import write_sentence_transformers_files
from llamafarm_ray.training.batches import Batch
from llamafarm_ray.training.compute.forward import inputs_of
from llamafarm_ray.training.objectives.base import Loss, Objective
from llamafarm_ray.training.objectives.sequences import sequences_of
from llamafarm_ray.training.rows import IGNORED, TokenisedRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llamafarm_ray.training.strategies import Strategy

__all__ = ["Candidates", "ContrastiveObjective"]


@dataclass(frozen=True, slots=True)
class _Context:
    """Facts about a batch before its second pass.

    Args:
        gradient: of the window's loss with respect to the batch's vectors, of shape (S, width).
        value: the rows' losses, summed.
        sums: the rows' figures, summed.
        random: the generators' states before the first pass.
    """

    gradient: torch.Tensor
    value: torch.Tensor
    sums: dict[str, torch.Tensor]
    random: list[torch.Tensor]


class ContrastiveObjective(Objective):
    """InfoNCE (https://arxiv.org/abs/1807.03748) whose negatives are all other texts of the window, on all workers.

    A row is an anchor, its positive, and perhaps hard negatives. The loss is the mean over the rows of the
    cross-entropy with which the anchor finds its positive among the positives and negatives of all rows, by cosine
    similarity over the temperature. A text that is known to be a positive of the same anchor is not its negative.

    The loss of a row depends on the whole window, which need not fit in memory at once. So it goes in two passes
    (GradCache, https://arxiv.org/abs/2101.06983): `prepare` embeds everything without keeping activations, and works
    out the gradient with respect to the vectors; `loss` embeds a micro-batch again, with the same dropout, and carries
    that gradient on to the weights. The result is that of one large batch; the price is a second forward pass.

    Args:
        settings: the configuration's ``fine_tuning.contrastive``.
    """

    name: ClassVar[str] = "contrastive"
    columns: ClassVar[tuple[str, ...]] = ("anchor", "positive")
    task: ClassVar[Task] = "embedding"
    packable: ClassVar[bool] = False  # encoders number their positions in ways of their own
    needs_chat_template: ClassVar[bool] = False

    def __init__(self, settings: ContrastiveSettings | None = None) -> None:
        self.settings = settings or ContrastiveSettings()

    def tokenise(
        self, tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], max_length: int
    ) -> list[TokenisedRow]:
        """See `Objective.tokenise`: texts get the tokenizer's special tokens, and long ones lose their end."""
        negatives = [text for text in (row.get("negatives") or ()) if text]
        texts = [row["anchor"], row["positive"], *negatives[: self.settings.hard_negatives]]
        if not all(text and text.strip() for text in texts):
            return [TokenisedRow.left_out("empty text")]
        prefixes = [self.settings.query_prefix] + [self.settings.passage_prefix] * (len(texts) - 1)
        parts = [self._ids(tokenizer, prefix + text, max_length) for prefix, text in zip(prefixes, texts, strict=True)]
        input_ids = [token for part in parts for token in part]
        return [TokenisedRow(input_ids, [IGNORED] * len(input_ids), lengths=[len(part) for part in parts])]

    def _ids(self, tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[int]:
        ids = list(tokenizer(text, truncation=True, max_length=max_length)["input_ids"])
        end = tokenizer.eos_token_id
        if self.settings.pooling == "last" and end is not None and ids[-1:] != [end]:
            ids = [*ids[: max_length - 1], end]  # the one token that stands for the text is the same for all
        return ids

    def count(self, batch: Batch) -> int:
        """Rows."""
        return batch.num_rows

    def prepare(self, strategy: Strategy, batches: Sequence[Batch], total: float) -> list[Any]:
        """Embed the window, and work out how each vector should move."""
        del total
        random, vectors = [], []
        for batch in batches:
            random.append(_random_state(strategy.place.device))
            with torch.no_grad(), strategy.autocast():
                vectors.append(self._embed(strategy.model, batch)[: _num_sequences(batch)])
        rows = [count for batch in batches for count in batch.sequences_per_row]
        texts = [_digest(ids.tobytes()) for batch in batches for ids, _ in sequences_of(batch)]
        shared = strategy.gather((rows, texts))
        own = torch.cat(vectors).requires_grad_()
        gathered = strategy.gather_rows(own.detach())
        gathered[strategy.place.rank] = own

        candidates = Candidates.of(
            [count for rows, _ in shared for count in rows], [text for _, texts in shared for text in texts]
        )
        with torch.enable_grad():
            losses, figures = candidates.losses(torch.cat(gathered), self.settings.temperature)
            (gradient,) = torch.autograd.grad(losses.sum(), own)
        first = sum(len(rows) for rows, _ in shared[: strategy.place.rank])
        mine = {name: figure[first : first + len(rows)] for name, figure in figures.items()}
        return [
            _Context(
                gradient[vectors_before : vectors_before + len(found)],
                losses.detach()[first:][rows_before : rows_before + batch.num_rows].sum(),
                {name: figure[rows_before : rows_before + batch.num_rows].sum() for name, figure in mine.items()},
                state,
            )
            for batch, found, state, vectors_before, rows_before in zip(
                batches,
                vectors,
                random,
                accumulate((len(found) for found in vectors), initial=0),
                accumulate((batch.num_rows for batch in batches), initial=0),
                strict=False,  # the running sums have one more
            )
        ]

    def loss(self, model: PreTrainedModel, batch: Batch, context: Any = None) -> Loss:
        """A scalar whose gradient is the loss's; the loss itself is its ``value``.

        Args:
            context: from `prepare`.
        """
        device = batch.input_ids.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _set_random_state(context.random, device)
            vectors = self._embed(model, batch)
        total = vectors.sum() * 0.0
        if batch.num_rows:
            total = (vectors * context.gradient).sum()
        return Loss(total, value=context.value, sums=context.sums)

    def _embed(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        mask = batch.attention_mask
        assert mask is not None  # nothing is packed
        return pooled(model(**inputs_of(batch)).last_hidden_state, mask, self.settings.pooling)

    def write_beside(self, folder: Path, *, width: int, max_length: int) -> None:
        """See `Objective.write_beside`: what sentence-transformers reads."""
        write_sentence_transformers_files(
            folder,
            width=width,
            max_length=max_length,
            pooling=self.settings.pooling,
            query_prefix=self.settings.query_prefix,
            passage_prefix=self.settings.passage_prefix,
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Texts of a window that are searched, and the anchors that search them.

    Args:
        anchors: places of the N anchors among the window's texts.
        searched: places of the C other texts.
        matches: int64 of shape (N,), the place of each anchor's positive in ``searched``.
        known: of shape (N, C), true for further texts that are positives of that anchor as well.
    """

    anchors: list[int]
    searched: list[int]
    matches: torch.Tensor
    known: torch.Tensor

    @classmethod
    def of(cls, sequences_per_row: Sequence[int], texts: Sequence[bytes]) -> Candidates:
        """Sort out a window.

        Args:
            sequences_per_row: texts of each row: an anchor, its positive, and negatives.
            texts: a digest of each text; those with the same one are the same.
        """
        anchors = list(accumulate(sequences_per_row, initial=0))[:-1]
        places = set(anchors)
        searched = [place for place in range(len(texts)) if place not in places]
        column = {place: index for index, place in enumerate(searched)}
        matches = [column[anchor + 1] for anchor in anchors]
        columns_of: dict[bytes, list[int]] = defaultdict(list)
        for index, place in enumerate(searched):
            columns_of[texts[place]].append(index)
        positives_of: dict[bytes, set[bytes]] = defaultdict(set)
        for anchor in anchors:
            positives_of[texts[anchor]].add(texts[anchor + 1])
        known = torch.zeros((len(anchors), len(searched)), dtype=torch.bool)
        for row, anchor in enumerate(anchors):
            for positive in positives_of[texts[anchor]]:
                known[row, columns_of[positive]] = True
            known[row, matches[row]] = False
        return cls(anchors, searched, torch.tensor(matches), known)

    def losses(self, vectors: torch.Tensor, temperature: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Each row's loss and figures, of shape (N,).

        Args:
            vectors: of all texts, of length 1, of shape (texts, width).
            temperature: divisor of similarities.
        """
        similarities = vectors[self.anchors] @ vectors[self.searched].T
        matches = self.matches.to(vectors.device)
        scores = (similarities / temperature).masked_fill(self.known.to(vectors.device), float("-inf"))
        figures = {
            "retrieval_accuracy": (scores.detach().argmax(dim=1) == matches).float(),
            "positive_similarity": similarities.detach().gather(1, matches[:, None])[:, 0],
        }
        return functional.cross_entropy(scores, matches, reduction="none"), figures


def _num_sequences(batch: Batch) -> int:
    return batch.num_sequences if batch.num_rows else 0


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _random_state(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
