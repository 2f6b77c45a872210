"""Verdicts of a judge: both orders, ratings, failures, and the agreement with people."""

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.judges.cases import JudgedAnswer, LabeledAnswer, LabeledPair, Labels, labels_of
from llamafarm_ray.evaluation.judges.judging import Failure, judge_requests, judge_scores
from llamafarm_ray.evaluation.judges.kappa import cohens_kappa
from llamafarm_ray.evaluation.judges.requests import read_preference, read_rating

ANSWERS = [JudgedAnswer(f"Q{at}?", ("a",), f"ours {at}", f"theirs {at}", f"{at}.md") for at in range(4)]
BOTH = ("pairwise", "rubric")


def scores(verdicts, answers=ANSWERS, labels=None, methods=BOTH):
    return judge_scores(answers, labels or Labels(), methods, verdicts)


def test_answers_are_compared_in_both_orders_and_rated_alone():
    requests = judge_requests(ANSWERS[:1], Labels(), BOTH, "Be right.")
    first, second = (requests["compared", 0, order].messages[1]["content"] for order in (0, 1))
    assert first.index("ours 0") < first.index("theirs 0")
    assert second.index("theirs 0") < second.index("ours 0")
    assert {key[0] for key in requests} == {"compared", "rated"}
    assert len(requests) == 4
    assert all("Be right." in one.messages[0]["content"] for one in requests.values())


def test_a_judge_that_always_prefers_the_first_answer_finds_a_tie():
    verdicts = {("compared", at, order): "first" for at in range(4) for order in (0, 1)}
    assert scores(verdicts).metrics == {"win_rate": 0.5, "position_consistency": 0.0}


def test_an_answer_wins_if_it_is_preferred_in_both_orders():
    wins = {("compared", 0, 0): "first", ("compared", 0, 1): "second"}
    loses = {("compared", 1, 0): "second", ("compared", 1, 1): "first"}
    ties = {("compared", 2, 0): "tie", ("compared", 2, 1): "tie"}
    found = scores(wins | loses | ties)
    assert found.metrics == {"win_rate": 0.5, "position_consistency": 1.0}
    assert (found.num_examples, found.num_skipped) == (3, 1)
    low, high = found.intervals["win_rate"]
    assert 0 <= low < 0.5 < high <= 1
    assert scores(wins).metrics["win_rate"] == 1


def test_equal_answers_are_a_tie_that_nobody_is_asked_about():
    same = [JudgedAnswer("Q?", (), "same", " same\n")]
    assert judge_requests(same, Labels(), ("pairwise",), "c") == {}
    assert scores({}, same).metrics["win_rate"] == 0.5


def test_a_failure_takes_its_question_out_of_the_score_and_is_counted_by_its_name():
    verdicts = {("compared", 0, 0): "first", ("compared", 0, 1): "second", ("compared", 1, 0): "second"}
    verdicts |= {("compared", 1, 1): Failure("HTTP 500"), ("rated", 0, 0): Failure("HTTP 500"), ("rated", 1, 0): 4}
    found = scores(verdicts)
    assert (found.metrics["win_rate"], found.metrics["rating"]) == (1, 4)
    assert found.failures == {"HTTP 500": 2}
    nothing = scores({("rated", at, 0): Failure("HTTP 500") for at in range(4)})
    assert (nothing.metrics, nothing.failures, nothing.num_examples) == ({}, {"HTTP 500": 4}, 0)


def test_ratings_stand_beside_the_baselines_with_a_verdict():
    verdicts = {("rated", at, whose): 5 if whose == 0 else 2 for at in range(4) for whose in (0, 1)}
    found = scores(verdicts)
    assert found.metrics == {"rating": 5, "good_rate": 1}
    assert found.baseline == {"rating": 2, "good_rate": 0}
    assert found.differences["rating"].comparison.difference == 3


def test_kappa_has_its_textbook_value_and_an_interval_that_few_labels_leave_wide():
    # Fleiss, Levin and Paik (2003), table 18.1.
    table = {(0, 0): 75, (0, 1): 1, (0, 2): 4, (1, 0): 5, (1, 1): 4, (1, 2): 1, (2, 2): 10}
    pairs = [pair for pair, count in table.items() for _ in range(count)]
    found = cohens_kappa(pairs)
    assert found.kappa == pytest.approx(0.6765, abs=1e-3)
    assert found.low < 0.6765 < found.high
    few = cohens_kappa([(0, 0), (1, 1), (0, 0)])
    assert (few.kappa, few.high, few.num_labels) == (1, 1, 3)
    assert few.low < 0
    assert cohens_kappa([(0, 1), (1, 0)]).kappa == -1
    assert cohens_kappa([]) is None
    assert cohens_kappa([(1, 1)] * 9) is None


def test_labels_are_put_before_the_judge_and_agreement_is_reported():
    labels = Labels(
        tuple(LabeledAnswer("Q?", (), f"{at}", at % 2 == 0) for at in range(10)),
        tuple(LabeledPair("Q?", (), f"good {at}", f"bad {at}") for at in range(10)),
    )
    requests = judge_requests([], labels, BOTH, "c")
    assert len(requests) == 30
    right = {("labeled answer", at, 0): 5 if at % 2 == 0 else 1 for at in range(10)}
    right |= {("labeled pair", at, order): ("first", "second")[order] for at in range(10) for order in (0, 1)}
    found = scores(right, [], labels)
    assert found.metrics == {"preference_kappa": 1, "rating_kappa": 1}
    assert found.intervals["rating_kappa"][0] < 1
    wrong = {key: 3 if isinstance(verdict, int) else "first" for key, verdict in right.items()}
    found = scores(wrong, [], labels).metrics
    assert found["rating_kappa"] == 0
    assert found["preference_kappa"] <= 0


def test_labels_in_rows_are_read_and_others_are_refused():
    row = {"human_labels": [{"answer": "x", "good": False}, {"better": "y", "worse": "z"}]}
    assert labels_of([("Q?", ("a",), row)]) == Labels(
        (LabeledAnswer("Q?", ("a",), "x", False),), (LabeledPair("Q?", ("a",), "y", "z"),)
    )
    assert labels_of([("Q?", (), {})]) == Labels()
    with pytest.raises(InputError, match="has the label 4"):
        labels_of([("Q?", (), {"human_labels": [4]})])


@pytest.mark.parametrize("value", [{"better": "A"}, {"better": None}, [], "first", None])
def test_a_preference_of_another_form_is_none(value):
    with pytest.raises(ValueError, match="better"):
        read_preference(value)


@pytest.mark.parametrize("value", [{"rating": 0}, {"rating": 6}, {"rating": "5"}, {"rating": True}, {"rating": 4.5}, 5])
def test_a_rating_of_another_form_is_none(value):
    with pytest.raises(ValueError, match="rating"):
        read_rating(value)
