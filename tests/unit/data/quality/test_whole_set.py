"""Filters over the whole set choose rows by what all documents hold, in any order and in any blocks."""

import random

import pyarrow as pa
import pytest

from llamafarm_ray.config import QualityControl
from llamafarm_ray.data.quality.decontamination import EvaluationTexts
from llamafarm_ray.data.quality.whole_set import find_near_duplicates, find_off_domain, whole_set_filters
from llamafarm_ray.data.rows import EXAMPLE_SCHEMA, Example, Message
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.types import Digest

LONG = (
    "The harbor library lends books, films and maps to everybody who lives in the town, and visitors may read them in "
    "the hall where it is warm and quiet, as long as they leave their coats and bags in the lockers near the entrance, "
    "which take a coin that comes back when the key is returned in the evening."
)


def rows(*examples):
    """Return table rows of (document, question, answer, passage)."""
    found = []
    for position, (document, question, answer, passage) in enumerate(examples):
        messages = (Message("user", question), Message("assistant", answer))
        found.append(Example(messages, document, Digest.of(document.encode()), passage).build_row(position))
    return found


def tables(found, size=2, seed=None):
    """Return a source of tables of ``size`` rows, shuffled if there is a seed."""
    found = random.Random(seed).sample(found, len(found)) if seed is not None else found

    def apply(function, columns):
        for start in range(0, len(found), size):
            yield function(pa.Table.from_pylist(found[start : start + size], schema=EXAMPLE_SCHEMA).select(columns))

    return apply


ROWS = rows(
    ("b.md", "What does the library lend?", "Books.", LONG.replace("films", "music")),
    ("b.md", "Where may visitors read?", "In the hall.", LONG.replace("films", "music")),
    ("a.md", "What can one borrow?", "Films.", LONG),
    ("c.md", "Who keeps the vault?", "Otto.", "Otto keeps the vault."),
    ("d.md", "What does the branch lend?", "Maps.", LONG.replace("the town", "Oldtown")),
)


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_of_two_passages_the_one_of_the_first_document_stays(seed, size):
    assert find_near_duplicates(tables(ROWS, size, seed), "passage", 0.8) == {("b.md", 0), ("b.md", 1)}


def test_questions_are_compared_too_and_names_and_answers_tell_them_apart():
    question = "When in the morning does the old library at the harbor open its doors to visitors?"
    found = rows(
        ("a.md", question, "It opens at 8.", "One."),
        ("b.md", question.replace("to visitors", "to all visitors"), "It is at 8.", "Two."),
        ("c.md", question.replace("harbor", "Mill"), "It opens at 8.", "Three."),
        ("d.md", question, "It opens at 9.", "Four."),
    )
    assert find_near_duplicates(tables(found), "question", 0.8) == {("b.md", 1)}


def test_passages_far_from_the_domain_are_chosen():
    near = [(f"{n}.md", "Q?", "A.", f"The library opens at {n} and lends books to readers.") for n in range(20)]
    found = rows(*near, ("x.md", "Q?", "A.", "Quarks carry color charge; gluons mediate the strong interaction."))
    far = {("x.md", 20)}
    assert find_off_domain(tables(found), None) == far
    assert find_off_domain(tables(found, 1, 3), None) == far
    assert find_off_domain(tables(found), "Opening hours of a library and its books") == far


def test_the_filters_that_are_asked_for_run_and_count():
    everything = QualityControl.model_validate(
        {"validation": {"domain_relevance": True, "domain": "library and vault"}, "decontaminate": ["questions.txt"]}
    )
    evaluation = EvaluationTexts.of(["Who keeps the vault?"])
    ledger = Ledger()
    left = ROWS
    for step in whole_set_filters(everything, evaluation, tables(ROWS)):
        left = list(step.run(left, ledger))
    assert [(row["document"], row["position"]) for row in left] == [("a.md", 2), ("d.md", 4)]
    assert {name: dict(counts.dropped) for name, counts in ledger.steps.items()} == {
        "near_duplicates": {"near duplicate": 2},
        "domain_relevance": {},
        "decontaminate": {"overlaps an evaluation set": 1},
    }
    exact = QualityControl.model_validate({"validation": {"near_duplicate_threshold": None}})
    assert whole_set_filters(exact, evaluation, tables(ROWS)) == ()
