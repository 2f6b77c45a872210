"""Continue many texts by a line each, in batches of like length, with a model of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Line", "LineSampler"]

_TOP_K = 40
_PREFILL_TOKENS = 4000
_MAX_ROWS = 128
_COMPACT_BELOW = 0.8
"""Rows that ended are removed from a batch once fewer than this share of its rows is unfinished."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sampled line.

    Args:
        text: without its end.
        log_prob: mean log-probability of its tokens, the end included.
    """

    text: str
    log_prob: float


@dataclass(slots=True)
class _Row:
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


class LineSampler:
    """Samples lines from a model.

    The random numbers depend on the seed and the texts of a call alone.

    Args:
        model: a causal language model, in evaluation.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        ends = [token for token in range(len(tokenizer)) if "\n" in tokenizer.decode([token])]
        self._ends = frozenset([*ends, tokenizer.eos_token_id])
        self._end_ids = torch.tensor(sorted(self._ends), device=self._device)

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[str], *, num_samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Line]]:
        """Return ``num_samples`` lines for each prompt.

        Args:
            num_samples: lines for each.
            max_tokens: most tokens of a line.
            temperature: of the draws among the 40 likeliest tokens; 0 takes the likeliest.
        """
        generator = torch.Generator(device=self._device).manual_seed(seed)
        encoded = [self._tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        found: list[list[Line]] = [[] for _ in prompts]
        for batch in _batches([len(ids) for ids in encoded], num_samples):
            rows = self._continue([encoded[at] for at in batch], num_samples, max_tokens, temperature, generator)
            for index, row in enumerate(rows):
                found[batch[index // num_samples]].append(self._line(row))
        return found

    def _continue(
        self,
        prompts: list[list[int]],
        num_samples: int,
        max_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> list[_Row]:
        """Return the rows of a batch: ``num_samples`` for each prompt, which is read once."""
        ids, mask = self._padded(prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(num_samples)
        logits = output.logits[:, -1].float().repeat_interleave(num_samples, dim=0)
        mask, last = mask.repeat_interleave(num_samples, dim=0), positions[:, -1:].repeat_interleave(num_samples, dim=0)
        rows = [_Row() for _ in range(len(logits))]
        alive = list(range(len(rows)))
        for step in range(max_tokens):
            chosen = _choose(logits, temperature, generator)
            log_probs = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
            for row, token, log_prob in zip(alive, chosen.tolist(), log_probs.tolist(), strict=True):
                rows[row].ids.append(token)
                rows[row].log_probs.append(log_prob)
            going_on = ~torch.isin(chosen, self._end_ids)
            if step == max_tokens - 1 or not going_on.any():
                break
            if going_on.sum() < _COMPACT_BELOW * len(alive):
                kept = going_on.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                alive = [alive[at] for at in kept.tolist()]
                chosen, last, mask = chosen[kept], last[kept], mask[kept]
            mask, last = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1), last + 1
            output = self._model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=last,
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1].float()
        return rows

    def _padded(self, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask, padded on the left."""
        length, pad = max(map(len, prompts)), self._tokenizer.pad_token_id
        ids = [[pad] * (length - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _line(self, row: _Row) -> Line:
        length = next((at + 1 for at, token in enumerate(row.ids) if token in self._ends), len(row.ids))
        text = self._tokenizer.decode(row.ids[:length], skip_special_tokens=True)
        return Line(text.split("\n", 1)[0].strip(), sum(row.log_probs[:length]) / length)


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    if temperature == 0.0:
        return logits.argmax(-1)
    values, ids = logits.topk(min(_TOP_K, logits.shape[-1]), dim=-1)
    drawn = torch.multinomial(torch.softmax(values / temperature, dim=-1), 1, generator=generator)
    return ids.gather(1, drawn)[:, 0]


def _batches(lengths: Sequence[int], num_samples: int) -> Iterator[list[int]]:
    """Yield indices of prompts of like length that fit into memory together, the shortest first."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda at: (lengths[at], at)):
        full = (len(batch) + 1) * num_samples > _MAX_ROWS or lengths[index] * (len(batch) + 1) > _PREFILL_TOKENS
        if batch and full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
