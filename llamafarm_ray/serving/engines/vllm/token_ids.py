"""Tokens that a tokenizer has and the base model has no embedding for.

vLLM takes whichever of the two vocabularies is larger as the bound on the ids of a prompt, since models that read
images put ids beyond their own into it; and it bounds words that a client forbids by the tokenizer's vocabulary alone.
A model of text has no such ids: on a CPU one of them ends the whole engine. So the base model's vocabulary is the bound
here, and such requests are the client's mistake (400).

It relies on ``AsyncLLM.renderer`` with its ``tokenizer``, whose ``max_token_id`` is that bound, and on
``is_multimodal_model`` and ``get_vocab_size`` of ``AsyncLLM.model_config``. A test names each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["bound_token_ids"]


def bound_token_ids(client: AsyncLLM) -> None:
    """Refuse requests with tokens beyond the base model's vocabulary.

    Args:
        client: vLLM's ``AsyncLLM``, whose tokenizer this changes.
    """
    tokenizer, config = client.renderer.tokenizer, client.model_config
    if tokenizer is None or config.is_multimodal_model:
        return
    largest = config.get_vocab_size() - 1
    if 0 <= largest < tokenizer.max_token_id:  # configurations without a vocabulary have a size of 0
        known = type(tokenizer)
        tokenizer.__class__ = type(known.__name__, (known,), {"max_token_id": largest})
