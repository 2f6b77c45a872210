"""A base model's vocabulary is the bound on the tokens of requests to vLLM, also where its tokenizer knows more."""

from types import SimpleNamespace

import pytest
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.serving.engines.vllm.token_ids import bound_token_ids


def client_of(tokenizer, vocab_size, *, reads_images=False):
    """The parts of vLLM's ``AsyncLLM`` that are used."""
    config = SimpleNamespace(is_multimodal_model=reads_images, get_vocab_size=lambda: vocab_size)
    return SimpleNamespace(renderer=SimpleNamespace(tokenizer=tokenizer), model_config=config)


@pytest.fixture
def tokenizer():
    """A tokenizer with the bound that vLLM's have: of its own vocabulary."""
    made = make_tiny_tokenizer()
    bounded = {"max_token_id": property(lambda self: len(self) - 1)}
    made.__class__ = type("CachedTokenizer", (type(made),), bounded)
    return made


def test_the_bound_is_the_models_where_the_tokenizer_knows_more(tokenizer):
    ids, most = tokenizer("A llama").input_ids, len(tokenizer) - 1
    bound_token_ids(client_of(tokenizer, 300))
    assert tokenizer.max_token_id == 299
    assert (tokenizer("A llama").input_ids, len(tokenizer) - 1) == (ids, most)


@pytest.mark.parametrize("more", [{"vocab_size": 10_000}, {"vocab_size": 300, "reads_images": True}])
def test_a_larger_vocabulary_and_models_that_read_images_keep_theirs(tokenizer, more):
    bound_token_ids(client_of(tokenizer, **more))
    assert tokenizer.max_token_id == len(tokenizer) - 1
    bound_token_ids(client_of(None, **more))
