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
