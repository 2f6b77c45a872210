import math
from itertools import product

import numpy as np
import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.comparison import (
    Clusters,
    PairedScores,
    compare,
    holm,
    interval_of,
    mcnemar,
    sign_test,
)


@pytest.mark.parametrize(
    ("better", "worse", "p_value"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 2**5), (8, 2, 2 * (1 + 10 + 45) / 2**10), (2, 8, 0.109375), (3, 3, 1)],
)
def test_mcnemar_is_the_exact_binomial_test(better, worse, p_value):
    assert mcnemar(better, worse) == pytest.approx(p_value)


def test_mcnemar_of_thousands_is_still_exact():
    # The normal approximation: 2 * (1 - Phi((200 - 1) / sqrt(10000))).
    assert mcnemar(5100, 4900) == mcnemar(np.int64(5100), np.int64(4900)) == pytest.approx(0.0466, abs=2e-3)


def test_holm_worked_by_hand():
    # Sorted: 0.01 x 3, 0.02 x 2, 0.04 x 1; each at least the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_mean_is_over_examples_and_its_error_over_clusters():
    summed = Clusters.of([1, 1, 1, -1], ["a", "a", "a", "b"])
    assert summed.mean == 0.5
    # Residuals 3 - 0.5 * 3 and -1 - 0.5: sqrt(2 / 1 * (1.5 ** 2 + 1.5 ** 2)) / 4.
    assert summed.standard_error == pytest.approx(math.sqrt(2 * 4.5) / 4)


def test_the_standard_error_of_examples_alone_is_the_usual_one():
    values = [0.3, 0.1, -0.2, 0.4, 0.0]
    summed = Clusters.of(values, range(5))
    assert summed.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))


def test_the_sign_test_is_that_of_all_sign_patterns():
    sums = [3.0, -1.0, 2.0, 2.0, 1.5]
    flips = [abs(sum(s * x for s, x in zip(signs, sums, strict=True))) for signs in product([1, -1], repeat=5)]
    exact = sum(total >= abs(sum(sums)) - 1e-9 for total in flips) / 32
    assert sign_test(Clusters.of(sums, range(5))) == pytest.approx(exact, abs=0.02)


def test_examples_of_one_document_widen_the_interval():
    rng = np.random.default_rng(1)
    of_document = np.repeat(rng.normal(0, 1, 40), 10)
    clustered = interval_of(Clusters.of(of_document, np.repeat(range(40), 10)), resamples=2000)
    alone = interval_of(Clusters.of(of_document, range(400)), resamples=2000)
    assert clustered[1] - clustered[0] > 2.5 * (alone[1] - alone[0])


def test_a_clear_difference_is_one_and_says_so():
    right, wrong = [1.0] * 60, [0.0] * 60
    found = compare({"accuracy": PairedScores(right, wrong, [f"doc {n % 12}" for n in range(60)])})["accuracy"]
    assert (found.verdict, found.difference, found.num_clusters) == ("better", 1, 12)
    assert (found.num_better, found.num_worse) == (60, 0)
    assert found.p_value < 0.01
    assert compare({"x": PairedScores(wrong, right, [None] * 60)})["x"].verdict == "worse"


def test_lower_is_better_where_the_metric_says_so():
    scores = PairedScores([1.0] * 20, [2.0 + n / 100 for n in range(20)], range(20), higher_is_better=False)
    assert compare({"loss": scores})["loss"].verdict == "better"


def test_a_small_difference_is_noise_and_says_what_would_decide_it():
    model = [1.0] * 22 + [0.0] * 18
    baseline = [1.0] * 20 + [0.0] * 20
    model = model[::-1]  # most answers differ, in both directions
    found = compare({"accuracy": PairedScores(model, baseline, [None] * 40)})["accuracy"]
    assert (found.verdict, found.difference) == ("noise", pytest.approx(0.05))
    assert found.low < 0 < found.high
    # About (2.8 / 0.05) ** 2 times the variance of a difference, 0.97.
    assert found.examples_needed == pytest.approx(2.8**2 * 0.97 / 0.05**2, rel=0.05)


def test_equal_models_have_nothing_to_decide():
    found = compare({"accuracy": PairedScores([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["a", "b", "c"])})["accuracy"]
    assert (found.verdict, found.p_value, found.examples_needed) == ("noise", 1, None)


def test_metrics_are_corrected_for_being_several():
    baseline = [0.0] * 60
    better = PairedScores([1.0] * 40 + [-1.0] * 20, baseline, range(60))
    others = {f"m{n}": PairedScores([1.0, -1.0] * 30, baseline, range(60)) for n in range(9)}
    alone = compare({"f1": better}, resamples=1000)["f1"]
    among = compare({"f1": better, **others}, resamples=1000)["f1"]
    assert (alone.verdict, among.verdict) == ("better", "noise")
    assert among.p_value == pytest.approx(10 * alone.p_value)


def test_weights_make_a_mean_over_tokens():
    scores = PairedScores([2.0, 1.0], [1.0, 1.0], ["a", "b"], higher_is_better=False, weights=[30.0, 10.0])
    assert compare({"loss": scores})["loss"].difference == pytest.approx(0.75)


def test_examples_of_one_document_alone_count_as_they_are():
    found = compare({"accuracy": PairedScores([1.0] * 8, [0.0] * 8, ["a"] * 8)})["accuracy"]
    assert found.num_clusters == 8


def test_one_example_has_no_interval():
    found = compare({"accuracy": PairedScores([1.0], [0.0], ["a"])})["accuracy"]
    assert (found.low, found.high, found.verdict) == (None, None, "noise")
    assert "low" not in found.to_dict()


def test_the_same_seed_gives_the_same_result():
    rng = np.random.default_rng(2)
    scores = {"f1": PairedScores(rng.random(50), rng.random(50), range(50))}
    assert compare(scores, seed=3) == compare(scores, seed=3)


def test_scores_of_different_examples_are_refused():
    with pytest.raises(InputError, match="2 and 1 scores of 2 examples"):
        compare({"f1": PairedScores([1, 0], [1], ["a", "b"])})
    with pytest.raises(InputError, match="0 examples"):
        compare({"f1": PairedScores([], [], [])})


def simulated(rng, num_clusters, size):
    """Differences with half of their variance between documents; their true mean is 0.2."""
    of_document = rng.normal(0, 0.7, num_clusters)
    return 0.2 + np.repeat(of_document, size) + rng.normal(0, 0.7, num_clusters * size)


def covered(simulations, resamples):
    rng = np.random.default_rng(7)
    names = np.repeat(range(30), 4)
    hits = 0
    for _ in range(simulations):
        low, high = interval_of(Clusters.of(simulated(rng, 30, 4), names), resamples=resamples)
        hits += low <= 0.2 <= high
    return hits / simulations


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    assert 0.90 <= covered(150, 400) <= 0.99


def false_alarms(simulations, resamples):
    rng = np.random.default_rng(11)
    names = [f"doc {n}" for n in np.repeat(range(25), 4)]
    alarms = 0
    for _ in range(simulations):
        document = np.repeat(rng.random(25), 4)
        model, baseline = ((rng.random(100) < document).astype(float) for _ in range(2))
        alarms += compare({"a": PairedScores(model, baseline, names)}, resamples=resamples)["a"].verdict != "noise"
    return alarms / simulations


def test_equal_models_are_called_different_seldom():
    assert false_alarms(60, 200) <= 0.1


@pytest.mark.long
def test_coverage_and_false_alarms_over_a_thousand_simulations():
    assert 0.93 <= covered(1000, 2000) <= 0.97
    assert false_alarms(1000, 1000) <= 0.05
