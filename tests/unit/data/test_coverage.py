"""Coverage counts the facts of a document that a kept pair teaches."""

import pytest

from llamafarm_ray.data.coverage import Coverage, covered_facts, facts_of

PASSAGE = (
    "The library opens at 08:00 and closes at 20:00. A library card costs 10 euros.\n"
    "Adult \u2013 Price: 12 euros; Valid: one day\n"
    "Child \u2013 Price: 6 euros; Valid: one day"
)


def test_sentences_table_rows_and_list_items_are_facts_and_fragments_are_not():
    assert len(facts_of(PASSAGE)) == 4
    assert facts_of("Contact\nSee below.\nKeys hang beside the door") == ["Keys hang beside the door"]


@pytest.mark.parametrize(
    ("question", "answer", "covered"),
    [
        ("When does the library open?", "At 08:00.", [0]),
        ("What does a child pay?", "6 euros.", [3]),
        ("What is the price for Adult?", "Adult \u2013 Price: 12 euros; Valid: one day", [2]),
        (
            "What is said of the library?",
            "The library opens at 08:00 and closes at 20:00. A library card costs 10 euros.",
            [0, 1],
        ),
        ("Who founded it?", "The documents do not say.", []),
    ],
)
def test_a_pair_covers_the_facts_in_its_answer_or_the_one_it_is_from(question, answer, covered):
    assert covered_facts(facts_of(PASSAGE), question, answer) == covered


def test_the_share_of_nothing_is_zero():
    assert Coverage(4, 3, {"a.md": [3, 4]}).share == 0.75
    assert Coverage(0, 0, {}).share == 0.0


CHINESE = (
    "\u56fe\u4e66\u9986\u65e9\u4e0a\u516b\u70b9\u5f00\u95e8\u3002\u6210\u4eba\u7968\u4ef7\u5341\u4e8c\u6b27\u5143\u3002"
)
JAPANESE = (
    "\u7f8e\u8853\u9928\u306f\u4e5d\u6642\u306b\u958b\u304d\u307e\u3059\u3002"
    "\u5165\u5834\u6599\u306f\u5343\u5186\u3067\u3059\u3002"
)
THAI = "\u0e23\u0e49\u0e32\u0e19\u0e40\u0e1b\u0e34\u0e14\u0e40\u0e01\u0e49\u0e32\u0e42\u0e21\u0e07"


@pytest.mark.parametrize(("text", "num_facts"), [(CHINESE, 2), (JAPANESE, 2), (THAI, 1)])
def test_scripts_without_spaces_have_facts_and_their_answers_cover_them(text, num_facts):
    facts = facts_of(text)
    assert len(facts) == num_facts
    assert covered_facts(facts, "?", facts[-1][2:8]) == [num_facts - 1]
