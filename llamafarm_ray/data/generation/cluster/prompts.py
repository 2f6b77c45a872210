"""Prompts of a model as tokens, whether its template has a system turn, none, or there is no template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llamafarm_ray.errors import UserError
from llamafarm_ray.models.chat import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["prompt_ids"]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Return the tokens of a prompt after which the model answers.

    Args:
        messages: a system turn and a user turn.
    """
    joined = "\n\n".join(message["content"] for message in messages)
    if not tokenizer.chat_template:
        ids: list[int] = tokenizer.encode(f"{joined}\n\nJSON:\n")
        return ids
    try:
        text = render_chat(tokenizer, messages, for_answer=True)
    except UserError:  # a template without system turns
        text = render_chat(tokenizer, [{"role": "user", "content": joined}], for_answer=True)
    # The template has written the tokens that begin a text.
    rendered: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return rendered
