import math

import pytest

from llamafarm_ray.evaluation.metrics import MAX_PERPLEXITY, bleu, perplexity, rouge_l


def test_perplexity_is_weighted_by_tokens():
    assert perplexity(3 * math.log(2) + math.log(32), 4) == pytest.approx(2 * math.sqrt(2) * 2**0.5)


@pytest.mark.parametrize("loss_sum", [math.nan, math.inf, 1e9])
def test_perplexity_is_always_a_number_that_json_can_hold(loss_sum):
    assert perplexity(loss_sum, 1) == MAX_PERPLEXITY


def test_equal_texts_score_full_and_unlike_ones_nothing():
    same = ["the quick brown fox jumps over the lazy dog"]
    assert bleu(same, same) == pytest.approx(100)
    assert rouge_l(same, same) == 1
    assert rouge_l(["alpha beta"], ["gamma delta"]) == 0
    assert rouge_l([""], ["gamma delta"]) == 0


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # 3 of 4 words of the answer, 3 of 6 of the reference, in order.
    assert rouge_l(["a farm needs x"], ["a big farm always needs water"]) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
