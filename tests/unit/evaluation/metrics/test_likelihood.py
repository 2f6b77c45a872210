import math

import pytest

from llamafarm_ray.evaluation.metrics import MAX_PERPLEXITY, byte_perplexity, perplexity


def test_perplexity_is_weighted_by_tokens():
    # Three tokens of probability 1/2 and one of 1/32: 2 ** (8 / 4).
    assert perplexity(3 * math.log(2) + math.log(32), 4) == pytest.approx(4)


def test_perplexity_per_byte_does_not_depend_on_the_tokenizer():
    # One token of four bytes with probability 1/16, or four of one byte with 1/2 each.
    assert byte_perplexity(math.log(16), 4) == pytest.approx(byte_perplexity(4 * math.log(2), 4)) == pytest.approx(2)


@pytest.mark.parametrize("loss_sum", [math.nan, math.inf, 1e9])
def test_perplexity_is_always_a_number_that_json_can_hold(loss_sum):
    assert perplexity(loss_sum, 1) == MAX_PERPLEXITY
