"""The difference between a model and its converted form, measured on fixed texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from llamafarm_ray.errors import IntegrityError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "PROMPTS",
    "Bound",
    "Difference",
    "Outputs",
    "check_difference",
    "compare",
    "held_out_text",
    "measured_inputs",
    "run_model",
]

PROMPTS = (
    "The capital of France is",
    "How many legs does a spider have?",
    "def add(a, b):\n    return",
    "Water boils at one hundred degrees Celsius. " * 4,
    "Q: Name three primary colors.\nA:",
    "Der Zug nach Hamburg f\u00e4hrt um 14:35 Uhr von Gleis 7.",
)
"""Prompts that both forms are given, beside `held_out_text`."""

_MAX_TOKENS = 512
"""Of the held-out text; a model with a shorter context gets as many as it takes."""

_CLEAR = 0.5
"""Distance in nats from which one token is clearly more probable than another, whatever rounds numbers."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a model for the measured texts.

    Attributes:
        inputs: token ids of each text; the held-out one is the last.
        log_probabilities: of the next token at each place of a text, shape (tokens, vocabulary).
        hidden: outputs of each layer for the held-out text, shape (tokens, width).
    """

    inputs: Sequence[torch.Tensor]
    log_probabilities: Sequence[torch.Tensor]
    hidden: Sequence[torch.Tensor]

    @property
    def clear_tokens(self) -> tuple[int, ...]:
        """The most probable token after each text; -1 where another is nearly as probable."""
        best = [scores[-1].topk(2) for scores in self.log_probabilities]
        return tuple(int(one.indices[0]) if one.values[0] - one.values[1] > _CLEAR else -1 for one in best)

    @property
    def perplexity(self) -> float:
        """Perplexity of the held-out text."""
        ids, scores = self.inputs[-1][1:], self.log_probabilities[-1][:-1]
        return math.exp(-float(scores.gather(1, ids[:, None]).double().mean()))


@dataclass(frozen=True, slots=True)
class Difference:
    """A converted model beside its source.

    Attributes:
        num_tokens: places in texts at which both predicted the next token.
        greedy_agreement: share of them at which both find the same token most probable.
        mean_kl: mean Kullback-Leibler divergence of the converted model's predictions from the source's, in nats.
        perplexity_source: perplexity of the held-out text by the source.
        perplexity: likewise by the converted model.
        worst_layer: the layer that adds most to the difference of hidden states, counted from 0.
        worst_layer_error: that difference behind the layer, as a share of the states' norm.
    """

    num_tokens: int
    greedy_agreement: float
    mean_kl: float
    perplexity_source: float
    perplexity: float
    worst_layer: int
    worst_layer_error: float


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest difference that is let through.

    Attributes:
        mean_kl: of the mean divergence, in nats.
        perplexity_ratio: of the converted model's perplexity to the source's.
    """

    mean_kl: float
    perplexity_ratio: float


def held_out_text() -> str:
    """Return a text of a few hundred words that was written for this measurement."""
    return (files(__package__) / "held_out.txt").read_text(encoding="utf-8")


def measured_inputs(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[torch.Tensor]:
    """Return the token ids of the measured texts; the held-out text is the last.

    Args:
        config: its configuration, which says how many tokens it takes.
    """
    longest = min(_MAX_TOKENS, (getattr(config, "max_position_embeddings", None) or _MAX_TOKENS) - 1)
    texts = [tokenizer(text, verbose=False)["input_ids"][:longest] for text in (*PROMPTS, held_out_text())]
    return [torch.tensor(ids) for ids in texts if len(ids) > 1]


@torch.no_grad()
def run_model(model: PreTrainedModel, inputs: Sequence[torch.Tensor]) -> Outputs:
    """Run a model on the measured texts.

    Args:
        model: a causal language model of transformers, in 32 bits.
        inputs: token ids, see `measured_inputs`.
    """
    found = []
    for ids in inputs:
        output = model(input_ids=ids[None], output_hidden_states=ids is inputs[-1], use_cache=False)
        found.append(output.logits[0].float().log_softmax(-1))
    return Outputs(inputs, found, [state[0].float() for state in output.hidden_states[1:]])


def compare(source: Outputs, converted: Outputs) -> Difference:
    """Compare the outputs of two forms of a model for the same texts."""
    pairs = list(zip(source.log_probabilities, converted.log_probabilities, strict=True))
    divergences = torch.cat([(one.exp() * (one - other)).sum(-1) for one, other in pairs])
    agreement = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in pairs])
    errors = [
        float((one - other).norm() / one.norm()) for one, other in zip(source.hidden, converted.hidden, strict=True)
    ]
    added = [error - before for error, before in zip(errors, [0.0, *errors], strict=False)]
    worst = max(range(len(added)), key=lambda layer: math.inf if math.isnan(added[layer]) else added[layer])
    return Difference(
        len(divergences),
        float(agreement.float().mean()),
        max(0.0, float(divergences.double().mean())),
        source.perplexity,
        converted.perplexity,
        worst,
        errors[worst],
    )


def check_difference(difference: Difference, bound: Bound, *, converted: str, change: str = "--precision") -> None:
    """Check that a converted model is as near to its source as its format allows.

    Args:
        bound: the largest that is let through.
        converted: the converted model, for the message.
        change: the option that makes it differ less, likewise.

    Raises:
        IntegrityError: it is not; the message names the worst layer.
    """
    ratio = difference.perplexity / difference.perplexity_source
    if difference.mean_kl <= bound.mean_kl and ratio <= bound.perplexity_ratio:  # a NaN is not
        return
    told = f"a perplexity of {difference.perplexity:.4g} against {difference.perplexity_source:.4g}"
    raise IntegrityError(
        f"{converted} differs too much from its source: a mean divergence of {difference.mean_kl:.4g} nats (at most "
        f"{bound.mean_kl:g}) and {told} (at most {bound.perplexity_ratio:g} times as much). Layer "
        f"{difference.worst_layer} adds most to the difference: {difference.worst_layer_error:.2%} of its output.",
        hint=f"Nothing was written. Choose another {change} with more bits; with fp32, report it as a fault of ours.",
    )
