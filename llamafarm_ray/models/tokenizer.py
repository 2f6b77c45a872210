"""Open a base model's tokenizer, never from the network."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import AutoTokenizer

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.foreign import UNREADABLE, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_tokenizer", "quiet_libraries"]


def quiet_libraries() -> None:
    """Keep notices and progress bars of transformers and its imports away from the user's terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():  # else DeepSpeed tells on standard output that it chose the CPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("bitsandbytes", "peft", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with a padding token.

    Raises:
        InputError: it can't be read, or has no offsets (only the ``tokenizers`` backed ones map tokens to text).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise InputError(
            f"The tokenizer in {str(folder)!r} can't be read: {first_line(error)}",
            hint="Save it again with tokenizer.save_pretrained(...).",
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"The tokenizer in {str(folder)!r} does not say which text a token stands for.",
            hint="Convert it to a tokenizer.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer
