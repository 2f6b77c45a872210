import pytest

from llamafarm_ray.evaluation.metrics import context_use, faithfulness

PASSAGE = ["The old mill was built in 1832 by Anna Berg. It stands beside an oak."]


@pytest.mark.parametrize(
    ("answer", "context", "expected"),
    [
        ("The mill was built in 1832.", PASSAGE, 1),
        ("1832", PASSAGE, 1),
        ("The mill was built in 1833.", PASSAGE, 0),
        ("It was built by Otto Berg.", PASSAGE, 0),
        ("An oak", PASSAGE, 1),
        ("An elm", PASSAGE, 0.5),
        # "built" is there, "granite" is not.
        ("built granite", PASSAGE, 0.5),
        ("首都は東京", ["日本の首都は東京です。"], 1),
        ("京都", ["日本の首都は東京です。"], 0),
        ("Москва", ["Столица России - Москва."], 1),
        ("anything else", [], 0),
    ],
)
def test_faithfulness_is_the_share_of_the_answer_that_the_passages_hold(answer, context, expected):
    assert faithfulness(answer, context) == pytest.approx(expected)


def test_words_of_the_question_may_be_repeated():
    assert faithfulness("The miller lived in 1832.", PASSAGE, "When was the miller alive, and who lived there?") == 1


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_an_answer_that_says_nothing_is_neither(answer):
    assert faithfulness(answer, PASSAGE) is None


def test_context_use_counts_where_the_passages_hold_the_answer():
    assert context_use("In 1832.", PASSAGE, ["1832"]) == 1
    assert context_use("In 1900.", PASSAGE, ["1832"]) == 0
    assert context_use("In 1900.", PASSAGE, ["1900"]) is None
    assert context_use("x", [], ["1832"]) is None
