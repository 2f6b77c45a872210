import pytest

from llamafarm_ray.data.feedback import Feedback, judgement_rows, preference_rows
from llamafarm_ray.data.rows import Message
from llamafarm_ray.data.training_rows import KINDS
from llamafarm_ray.errors import InputError

ASKED = (Message("user", "A llama?"),)
OTHER = (Message("user", "A farm?"),)


def pairs(records, **options):
    found = preference_rows(records, **options)
    return [(row["messages"][-1]["content"], row["chosen"], row["rejected"]) for row in found.rows], found.num_dropped


def judged(records):
    found = judgement_rows(records)
    return [(row["messages"][-1]["content"], row["label"]) for row in found.rows], found.num_dropped


def test_a_correction_is_preferred_to_what_it_corrects():
    assert pairs([Feedback(ASKED, "A plant.", correction="An animal.")]) == (
        [("A llama?", "An animal.", "A plant.")],
        {},
    )


def test_answers_to_one_question_that_were_rated_apart_are_a_pair():
    records = [Feedback(ASKED, "best", 1.0), Feedback(ASKED, "good", 0.9), Feedback(ASKED, "bad", 0.1)]
    records += [Feedback(ASKED, "worst", 0.0), Feedback(ASKED, "middling", 0.5), Feedback(OTHER, "alone", 1.0)]
    assert pairs(records) == (
        [("A llama?", "best", "worst"), ("A llama?", "good", "bad")],
        {"no other answer to compare with": 1, "ratings too close": 1},
    )


def test_several_ratings_of_an_answer_count_by_their_mean():
    records = [Feedback(ASKED, "one", 1.0), Feedback(ASKED, "one", 0.0), Feedback(ASKED, "two", 0.3)]
    assert pairs(records) == ([], {"ratings too close": 3})
    assert judged([*records[:2], Feedback(ASKED, "two", 1.0)]) == ([("two", True)], {"rating says too little": 2})


def test_thumbs_are_judgements_and_a_correction_is_two():
    records = [
        Feedback.of({"messages": [{"role": "user", "content": "A llama?"}], "answer": "x", "thumb": "up"}),
        Feedback.of({"messages": [{"role": "user", "content": "A llama?"}], "answer": "y", "thumb": "down"}),
        Feedback(OTHER, "wrong", correction="right"),
    ]
    assert judged(records)[0] == [("wrong", False), ("right", True), ("x", True), ("y", False)]


@pytest.mark.parametrize("make", [preference_rows, judgement_rows])
def test_what_gives_no_row_is_counted_by_reason(make):
    records = [
        Feedback((), "a", 1.0),
        Feedback((*ASKED, Message("assistant", "b")), "a", 1.0),
        Feedback(ASKED, " ", 1.0),
        Feedback(ASKED, "a"),
        Feedback(ASKED, "An animal.", correction="an animal"),
    ]
    found = make(records)
    assert found.rows == []
    assert found.num_dropped == {
        "no question": 2,
        "empty answer": 1,
        "neither rated nor corrected": 1,
        "correction says what the answer says": 1,
    }


def test_the_same_row_is_given_once():
    twice = [Feedback(ASKED, "A plant.", correction="An animal.")] * 2
    assert pairs(twice)[1] == {"repeated": 1}


def test_rows_have_the_columns_of_their_kind():
    source = {"document", "document_digest", "passage", "provenance", "pii"}
    record = Feedback(ASKED, "A plant.", correction="An animal.")
    assert set(preference_rows([record]).rows[0]) | source == set(KINDS["preference"].schema.names)
    assert set(judgement_rows([record]).rows[0]) | source == set(KINDS["judgement"].schema.names)


def test_ratings_are_scaled_and_nonsense_is_refused():
    record = {"messages": [{"role": "user", "content": "a"}], "answer": "b"}
    assert Feedback.of({**record, "rating": 4}, highest=5).rating == pytest.approx(0.8)
    assert Feedback.of({**record, "rating": True}, highest=5).rating == 1.0
    for bad, message in (
        ({"rating": 7}, "not between 0 and 1"),
        ({"rating": "x"}, "no number"),
        ({"thumb": 1}, "thumb"),
    ):
        with pytest.raises(InputError, match=message):
            Feedback.of({**record, **bad})


def choice(chosen, rejected, asked="A llama?"):
    return Feedback.of({"messages": [{"role": "user", "content": asked}], "chosen": chosen, "rejected": rejected})


def test_a_choice_between_two_answers_is_a_preference_and_two_judgements():
    records = [choice("An animal.", "A plant."), choice("A place.", "A place!", "A farm?")]
    assert pairs(records) == ([("A llama?", "An animal.", "A plant.")], {"both answers say the same": 1})
    assert judged(records) == ([("An animal.", True), ("A plant.", False)], {"both answers say the same": 1})


def test_the_answer_that_more_users_chose_is_preferred_and_a_tie_says_nothing():
    tie = [choice("one", "two", "Tie?"), choice("two", "one", "Tie?")]
    most = [choice("one", "two"), choice("one", "two"), choice("two", "one")]
    assert pairs([*tie, *most]) == (
        [("A llama?", "one", "two")],
        {"as many or more users chose the other answer": 3, "repeated": 1},
    )
    assert judged(tie) == ([], {"rating says too little": 4})


def test_a_choice_without_one_of_its_answers_is_no_feedback():
    for half in ({"chosen": "one"}, {"rejected": "two"}):
        with pytest.raises(KeyError):
            Feedback.of({"messages": [{"role": "user", "content": "A llama?"}], **half})
