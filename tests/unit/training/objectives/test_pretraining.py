from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import SENTENCES, make_tiny_tokenizer

from llamafarm_ray.training.objectives import PretrainingObjective, find_objective
from llamafarm_ray.training.rows import IGNORED

TOKENIZER = make_tiny_tokenizer(None)


def pieces(text, max_length):
    return PretrainingObjective().tokenise(TOKENIZER, {"text": text}, max_length)


def test_a_text_is_trained_whole_between_its_begin_and_end():
    (row,) = pieces(SENTENCES[0], 64)
    assert TOKENIZER.decode(row.input_ids) == f"<s>{SENTENCES[0]}</s>"
    assert row.labels == [IGNORED, *row.input_ids[1:]]


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=200), st.integers(2, 40))
def test_every_token_of_a_long_text_is_predicted_exactly_once(text, max_length):
    found = pieces(text, max_length)
    expected = [*TOKENIZER(text, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
    assert [label for row in found for label in row.labels if label != IGNORED] == expected
    assert all(2 <= len(row.input_ids) <= max_length for row in found)
    for before, after in pairwise(found):
        assert after.input_ids[0] == before.input_ids[-1], "the piece begins with what it goes on from"


def test_an_empty_text_is_dropped():
    assert pieces("", 8)[0].dropped == "empty text"


@pytest.mark.parametrize("name", ["sft", "pretraining", "dpo", "kto", "contrastive"])
def test_every_objective_that_can_be_asked_for_is_there(name):
    assert find_objective(name).name == name
