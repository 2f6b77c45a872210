"""Let a model learn the lessons: a low-rank update of all linear layers, merged into the weights afterwards.

An instruct model of 135M parameters that is only shown examples in its prompt asks about things that are not in the
text. The same model asks what a reader would after one pass over the lessons, a minute on two CPU cores.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from llamafarm_ray.data.augmentation.lessons import Lesson, heading_lines
from llamafarm_ray.data.generation.base_model.learned import LearnedUpdate
from llamafarm_ray.data.generation.base_model.settings import Study
from llamafarm_ray.models.adapters.fused_lora import use_fused_lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["learn"]

_IGNORED = -100
_WARM_UP_STEPS = 5

TokenRow = tuple[list[int], list[int]]
"""Token ids and labels of a lesson."""


def learn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    study: Study,
    *,
    seed: int,
    kept: LearnedUpdate | None = None,
) -> object:
    """Return the model after it learned the lessons; its weights are changed.

    The update computes in the model's own number format, and is learned in fp32.

    Args:
        model: a causal language model, with all weights loaded.
        lessons: to learn from.
        seed: decides the order of lessons, and the update's first weights.
        kept: an update that was learned before is used, and a new one stored; None: it is learned in any case.
    """
    from peft import LoraConfig, get_peft_model  # it imports every quantization library there is

    torch.manual_seed(seed)
    config = LoraConfig(r=study.rank, lora_alpha=2 * study.rank, target_modules="all-linear")
    student: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
    if kept is None or not kept.restore(student):
        use_fused_lora(student)
        _train(student, list(_steps(tokenizer, lessons, study, random.Random(seed))), study, tokenizer.pad_token_id)
        if kept is not None:
            kept.save(student)
    return student.merge_and_unload().eval()


def _train(student: Any, steps: Sequence[Sequence[TokenRow]], study: Study, pad_id: int) -> None:
    weights = [parameter for parameter in student.parameters() if parameter.requires_grad]
    exact = [weight.detach().float().clone() for weight in weights]
    optimizer = torch.optim.AdamW(exact, lr=study.learning_rate, weight_decay=0.0)
    student.train()
    for index, batch in enumerate(steps):
        _loss(student, batch, pad_id).backward()  # type: ignore[no-untyped-call]
        for weight, copy in zip(weights, exact, strict=True):
            copy.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(exact, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = study.learning_rate * min(1.0, (index + 1) / _WARM_UP_STEPS) * (1.0 - index / len(steps))
        optimizer.step()
        with torch.no_grad():
            for weight, copy in zip(weights, exact, strict=True):
                weight.copy_(copy)


def _loss(student: Any, batch: Sequence[TokenRow], pad_id: int) -> torch.Tensor:
    device = next(student.parameters()).device
    length = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [pad_id] * (length - len(ids)) for ids, _ in batch], device=device)
    labels = torch.tensor([labels + [_IGNORED] * (length - len(labels)) for _, labels in batch], device=device)
    lengths = torch.tensor([len(ids) for ids, _ in batch], device=device)
    mask = (torch.arange(length, device=device)[None] < lengths[:, None]).long()
    # Logits of the whole vocabulary are needed where something is learned, and nowhere else.
    kept = (labels[:, 1:] != _IGNORED).any(dim=0).nonzero()[:, 0]
    logits = student(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:][:, kept].flatten())


def _steps(
    tokenizer: PreTrainedTokenizerBase, lessons: Sequence[Lesson], study: Study, rng: random.Random
) -> Iterator[list[TokenRow]]:
    """Yield the lessons of each step: of like length, so that little is padded, in a random order of steps."""
    for _ in range(study.epochs):
        ordered = sorted((_sequence(tokenizer, lesson, rng) for lesson in lessons), key=lambda pair: len(pair[0]))
        steps: list[list[TokenRow]] = [[]]
        for sequence in ordered:
            if steps[-1] and len(sequence[0]) * (len(steps[-1]) + 1) > study.tokens_per_step:
                steps.append([])
            steps[-1].append(sequence)
        rng.shuffle(steps)
        yield from steps


def _sequence(tokenizer: PreTrainedTokenizerBase, lesson: Lesson, rng: random.Random) -> TokenRow:
    """Return a lesson as tokens, its questions in a random order; names of lines are given, and not learned."""
    ids: list[int] = tokenizer.encode(heading_lines(lesson.topic, lesson.before, lesson.text), add_special_tokens=False)
    labels = [_IGNORED] * len(ids)
    given = tokenizer.encode("Question:", add_special_tokens=False)
    for question in rng.sample(lesson.questions, len(lesson.questions)) or ["none"]:
        learned = tokenizer.encode(f" {question}\n", add_special_tokens=False)
        ids += given + learned
        labels += [_IGNORED] * len(given) + learned
    return ids, labels
