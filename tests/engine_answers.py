"""What engines of the serving tests answer, and what ``generate`` of transformers says to the same prompt."""

import torch

from llamafarm_ray.serving.engines.base import SamplingParams

__all__ = ["NUM_TOKENS", "answer", "generate", "tokens"]

NUM_TOKENS = 20


def generate(model, prompt, num_tokens=NUM_TOKENS):
    """The greedy answer of a transformers model, as token ids."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False
        )
    return out[0, len(prompt) :].tolist()


async def answer(engine, name, prompt, num_tokens=NUM_TOKENS, **options):
    """The steps of an engine's answer, greedy unless ``options`` say otherwise."""
    params = SamplingParams(max_tokens=num_tokens, **{"temperature": 0.0, **options})
    return [step async for step in engine.generate(name, prompt, params)]


def tokens(steps):
    """The token ids of an answer's steps."""
    return [step.token.token_id for step in steps if step.token is not None]
