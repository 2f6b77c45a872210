"""Rank sentences by how likely a question about them is, by a model that has learned to ask.

Source: Ponte and Croft, 1998, "A Language Modeling Approach to Information Retrieval" (query likelihood); with a
language model of today as in Sachan et al., 2022 (https://arxiv.org/abs/2204.07496).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from llamafarm_ray.data.augmentation.lessons import heading_lines
from llamafarm_ray.data.generation.base_model.ranking import LikelihoodJob
from llamafarm_ray.data.generation.base_model.settings import Sampling, Study
from llamafarm_ray.data.generation.base_model.student import load_student

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["QuestionLikelihood", "likelihoods", "likelihoods_of"]

_MAX_QUESTIONS = 64
"""Most questions to read at once."""
_MAX_TEXT_TOKENS = 400
"""Tokens of a text that are read, its last ones: a line of a broken table may have thousands."""


def likelihoods(job: LikelihoodJob, report: Callable[[str, float], None]) -> list[list[float]]:
    """Return for each question of a job its log-probability after each of its sentences.

    Args:
        report: called with the stage and the fraction of it that is done.

    Raises:
        InputError: the folder has no causal language model with all its weights.
    """
    report("learning to ask", 0.0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = Sampling().seed
    model, tokenizer = load_student(
        job.folder, Study(), seed=seed, cache=job.cache, num_threads=torch.get_num_threads(), device=device
    )
    by_sentence: dict[int, list[int]] = {}
    for at, (_, places) in enumerate(job.asked):
        for place in places:
            by_sentence.setdefault(place, []).append(at)
    scorer = QuestionLikelihood(model, tokenizer)
    found: dict[tuple[int, int], float] = {}
    for number, (place, questions) in enumerate(by_sentence.items(), 1):
        scores = scorer.score(job.sentences[place], [job.asked[at][0] for at in questions])
        found.update({(at, place): score for at, score in zip(questions, scores, strict=True)})
        report("ranking sentences", number / len(by_sentence))
    return [[found[at, place] for place in places] for at, (_, places) in enumerate(job.asked)]


def likelihoods_of(settings: Mapping[str, LikelihoodJob], report: Callable[[str, float], None]) -> list[list[float]]:
    """Return the `likelihoods` of the one job of a task's settings."""
    return likelihoods(settings["job"], report)


class QuestionLikelihood:
    """Log-probabilities of questions about a sentence.

    Args:
        model: a causal language model that has learned the lessons, in evaluation.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def score(self, sentence: tuple[str, str, str], questions: Sequence[str]) -> list[float]:
        """Return the log-probability of each question, summed over its tokens.

        Args:
            sentence: heading line, the sentence before or nothing, and the sentence. It is read once.
            questions: in words of anybody's.
        """
        text = self._tokenizer.encode(f"{heading_lines(*sentence)}Question:", add_special_tokens=False)
        ids = torch.tensor([text[-_MAX_TEXT_TOKENS:]], device=self._device)
        found: list[float] = []
        for start in range(0, len(questions), _MAX_QUESTIONS):
            cache = DynamicCache(config=self._model.config)
            first = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            lines = [
                self._tokenizer.encode(f" {question}\n", add_special_tokens=False)
                for question in questions[start : start + _MAX_QUESTIONS]
            ]
            found += self._read(cache, first, ids.shape[1], lines)
        return found

    def _read(self, cache: Any, first: torch.Tensor, num_before: int, lines: list[list[int]]) -> list[float]:
        """Return the log-probabilities of lines after what the cache holds.

        Args:
            cache: of the text, a batch of one.
            first: logits of the first token, shape (vocabulary,).
            lines: token ids of each line.
        """
        cache.batch_repeat_interleave(len(lines))
        length = max(map(len, lines))
        ids = torch.zeros((len(lines), length), dtype=torch.long, device=self._device)
        mask = torch.ones((len(lines), num_before + length), dtype=torch.long, device=self._device)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = torch.tensor(line, device=self._device)
            mask[row, num_before + len(line) :] = 0
        logits = self._model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
        logits = torch.cat([first.expand(len(lines), 1, -1), logits[:, :-1]], dim=1).float()
        log_probs = logits.gather(2, ids[:, :, None])[:, :, 0] - logits.logsumexp(-1)
        log_probs *= mask[:, num_before:]
        return [float(score) for score in log_probs.sum(1)]
