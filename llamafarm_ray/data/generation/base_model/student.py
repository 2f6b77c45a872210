"""Load a base model that has learned the lessons."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llamafarm_ray.data.augmentation.lessons import LESSONS_VERSION, load_lessons
from llamafarm_ray.data.generation.base_model.learned import LearnedUpdate
from llamafarm_ray.data.generation.base_model.settings import Study, digest_of, files_of_weights
from llamafarm_ray.data.generation.base_model.study import learn
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.processor import matmul_dtype
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_student"]


def load_student(
    folder: Path, study: Study, *, seed: int, cache: str | None, num_threads: int, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a base model that has learned the lessons, in evaluation, and its tokenizer.

    Args:
        cache: folder or URI for the update that the model learns, so that it is learned once; None: nowhere.
        num_threads: threads to compute with, at most the cores that this process may use.
        device: where to compute.

    Raises:
        InputError: the folder has no causal language model with all its weights.
    """
    quiet_libraries()
    # Ray may have been told of more CPUs than there are; more threads than cores wait for each other.
    torch.set_num_threads(max(1, min(num_threads, len(os.sched_getaffinity(0)))))
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, dtype=matmul_dtype(device)).to(device)
    key = digest_of(LESSONS_VERSION, str(folder), files_of_weights(folder), asdict(study), seed)
    kept = LearnedUpdate(f"{cache.rstrip('/')}/lessons", key) if cache else None
    return learn(model, tokenizer, load_lessons(), study, seed=seed, kept=kept), tokenizer
