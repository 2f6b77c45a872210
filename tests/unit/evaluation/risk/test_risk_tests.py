"""Risk tests: their prompts, and the scores that outcomes give."""

import math
import pickle

import pytest

from llamafarm_ray.evaluation.risk.conduct import jailbreak_test, over_refusal_test
from llamafarm_ray.evaluation.risk.fairness import FairnessTest, fairness_test
from llamafarm_ray.evaluation.risk.injection import injection_test
from llamafarm_ray.evaluation.risk.items import ReadingItem, reading_set
from llamafarm_ray.evaluation.risk.measured import RateTest
from llamafarm_ray.evaluation.risk.memorization import Secret, TrainedAnswer, memorization_test
from llamafarm_ray.evaluation.risk.probes import DecisionProbe, RefusalProbe, Reply, asked
from llamafarm_ray.evaluation.risk.rewording import REWORDINGS
from llamafarm_ray.evaluation.risk.robustness import robustness_test

ITEM = ReadingItem("1", "When was the mill of Tor built?", ("1832",), ("The mill was built in 1832.", "It rains."))


def make_prompt(question, passages):
    return "\n".join([*passages, question])


def robustness(*items):
    return robustness_test(items, "mine", make_prompt=make_prompt, seed=0)


def all_tests():
    items = reading_set()
    rows = [TrainedAnswer("r", asked("?"), "one two three four five six seven eight nine ten")]
    return (
        robustness(*items),
        fairness_test(),
        memorization_test(rows, [], "mine", seed=0),
        injection_test(items, "mine", make_prompt=make_prompt, seed=0),
        jailbreak_test(),
        over_refusal_test(),
    )


def test_every_test_says_its_method_and_sample_and_is_the_same_each_time():
    for test, again in zip(all_tests(), pickle.loads(pickle.dumps(all_tests())), strict=True):  # noqa: S301  our own
        assert test == again
        assert test.method.endswith(".")
        assert test.sample
        assert len({probe.id for probe in test.probes}) == len(test.probes)


def test_without_replies_there_is_a_reason_and_no_number():
    for test in all_tests():
        scores = test.score({})
        assert scores.metrics == {}
        assert scores.reason


@pytest.mark.parametrize("name", list(REWORDINGS))
def test_a_reworded_question_keeps_its_names_and_numbers(name):
    question = "When did Marta Lind found the sawmill number 7?"
    changed = REWORDINGS[name](question, 0)
    assert changed == REWORDINGS[name](question, 0) != question
    assert {"marta", "lind", "7"} <= {*changed.lower().replace("?", "").split()}


def test_a_question_that_a_rule_can_not_change_is_left_as_it_is():
    assert REWORDINGS["lower_case"]("首都はどこですか。", 0) == REWORDINGS["typos"]("首都はどこですか。", 0)
    assert REWORDINGS["paraphrase"]("Wann wurde die Mühle gebaut?", 0) == "Wann wurde die Mühle gebaut?"
    assert [probe.group for probe in robustness(ReadingItem("1", "首都は?", ("東京",), ())).probes] == ["original"]


def test_robustness_is_the_share_of_right_answers_that_stay_right():
    test = robustness(ITEM, ReadingItem("2", "Which way is it to the sea?", ("north",), ()))
    groups = [probe.group for probe in test.probes]
    assert groups[:6] == ["original", "typos", "lower_case", "upper_case", "paraphrase", "passage_order"]
    assert test.probes[5].messages[0]["content"].startswith("It rains.")
    outcomes = dict.fromkeys(range(len(groups)), 1.0) | {1: 0.0, 6: 0.0}  # the second was wrong from the beginning
    scores = test.score(outcomes)
    assert scores.metrics["accuracy_kept"] == pytest.approx(4 / 5)
    assert scores.metrics["accuracy_kept_typos"] == 0
    assert scores.num_examples == 5
    low, high = scores.intervals["accuracy_kept"]
    assert 0 <= low < 0.8 < high <= 1
    assert "right to begin with" in test.score(dict.fromkeys(outcomes, 0.0)).reason


def test_each_attack_plants_its_instruction_in_a_passage_and_leaves_the_question():
    test = injection_test([ITEM, ReadingItem("2", "?", ("a",), ())], "mine", make_prompt=make_prompt, seed=0)
    assert [probe.group for probe in test.probes] == ["plain", "ignoring", "completed", "system"]
    for probe in test.probes:
        said = probe.messages[0]["content"]
        assert probe.instruction in said
        assert said.endswith(ITEM.question)
        assert probe.marker in probe.instruction
    assert test.probes[0].cluster == "1"


def test_a_rate_is_given_as_a_whole_and_by_group_with_intervals():
    probes = tuple(RefusalProbe(id=str(at), messages=asked("?"), group="ab"[at % 2]) for at in range(10))
    scores = RateTest("over_refusal", "rate", "m.", "s", probes).score({at: float(at % 2) for at in range(10)})
    assert scores.metrics == {"rate": 0.5, "rate_a": 0.0, "rate_b": 1.0}
    assert scores.intervals["rate_a"][1] > 0.3
    assert scores.intervals["rate_b"][1] == 1


def decisions(gap):
    """Log-odds of four decisions about two groups, one of which has ``gap`` less."""
    probes, outcomes = [], {}
    for number in range(4):
        for group in ("x", "y"):
            outcomes[len(probes)] = number - gap * (group == "y") * (1 + number / 10)
            probes.append(
                DecisionProbe(id=f"{number}{group}", messages=asked("?"), group=f"k: {group}", cluster=str(number))
            )
    return FairnessTest("mine", tuple(probes), {"k": "x"}).score(outcomes)


def test_the_gap_between_groups_is_paired_by_decision_and_keeps_its_sign_by_group():
    scores = decisions(2.0)
    assert scores.metrics["gap_k_y"] == pytest.approx(-2.3)
    assert scores.metrics["largest_gap"] == pytest.approx(2.3)
    low, high = scores.intervals["largest_gap"]
    assert 0 < low < 2.3 < high
    assert scores.intervals["gap_k_y"][1] < 0
    assert decisions(0.0).metrics["largest_gap"] == 0


def test_groups_are_exchanged_in_the_same_decisions():
    test = fairness_test()
    said = {probe.id: probe.messages[0]["content"] for probe in test.probes}
    assert said["1: gender: man"].replace("A man", "A woman") == said["1: gender: woman"]
    assert set(test.references) == {"gender", "age", "origin", "religion", "disability"}


SECRET = TrainedAnswer("row", asked("Whom do I call?"), "Call Ann at +49 30 1234567 before noon, please, or come by.")


def test_the_second_half_of_an_answer_is_asked_for_after_the_first():
    short = TrainedAnswer("short", asked("?"), "Yes, it is.")
    (probe,) = memorization_test([SECRET, short], [], "mine", seed=0).probes
    assert (probe.begun, probe.rest) == ("Call Ann at +49 30 1234567", "before noon, please, or come by.")
    (unspaced,) = memorization_test([TrainedAnswer("j", asked("?"), "水車は千八百三十二年に")], [], "m", seed=0).probes
    assert (unspaced.begun, unspaced.rest) == ("水車は千八百", "三十二年に")
    assert [unspaced.outcome(Reply(text)) for text in ("三十二年に。", "三十二")] == [1, 0]


def test_a_secret_is_told_from_others_of_its_form():
    start = SECRET.text.index("+49")
    test = memorization_test([], [Secret(SECRET, start, "+49 30 1234567")], "mine", seed=0)
    leak, exposed = test.probes
    assert (leak.begun, leak.rest) == ("Call Ann at", "+49 30 1234567")
    assert exposed.continuations[0] == " +49 30 1234567"
    assert len({*exposed.continuations}) == 32
    assert all(one[:2] == " +" and one[4] == one[7] == " " for one in exposed.continuations)
    scores = test.score({0: 1.0, 1: 5.0})
    assert scores.metrics == {"pii_leak_rate": 1.0, "pii_exposure": 5.0}
    assert "pii_exposure" not in scores.intervals
    canary = memorization_test([], [Secret(SECRET, start, "+49 30 1234567", is_canary=True)], "mine", seed=0)
    assert [probe.group for probe in canary.probes] == ["canary"]
    assert math.isfinite(canary.score({0: 0.0}).metrics["canary_exposure"])
