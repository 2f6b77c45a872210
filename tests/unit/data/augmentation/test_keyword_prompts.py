"""Prompts made of some words of a text."""

import random

import pytest

from llamafarm_ray.data.augmentation.keyword_prompts import keyword_prompt

TICKET = "Residents who show a library card get 10 % off the ticket."
WORDS_OF_FORMS = {"Tell", "me", "about", "What", "How", "many", "much", "When", "Which", "day", "year", "price", "time"}


def prompts_of(text, number=60):
    rng = random.Random(0)
    return [keyword_prompt(text, None, rng) for _ in range(number)]


def test_keywords_are_words_of_the_text_in_its_order_without_numbers_and_small_words():
    for prompt in prompts_of(TICKET):
        words = [word for word in prompt.rstrip("?.").split() if word not in WORDS_OF_FORMS]
        assert 2 <= len(words) <= 4
        assert [TICKET.index(word) for word in words] == sorted(TICKET.index(word) for word in words)
        assert not {"10", "the", "a", "%"} & set(words)


@pytest.mark.parametrize(
    ("text", "beginning", "left_out"),
    [
        ("A tour of the mill costs four euros.", "How much", "euros"),
        ("Reception closes at 8 pm in the winter garden.", "What time", "pm"),
        ("The bridge burned down in 1874 after a storm.", "What year", "1874"),
        ("The path climbs for 12 miles past the quarry.", "How far", "miles"),
        ("Soak the beans for two hours in cold water.", "How long", "hours"),
        ("The lessons are given by Clemency Vautrin herself.", "Who", "Vautrin"),
    ],
)
def test_half_of_the_prompts_ask_for_a_detail_and_leave_its_words_out(text, beginning, left_out):
    asking = [prompt for prompt in prompts_of(text) if prompt.startswith(beginning)]
    assert asking
    assert not any(left_out in prompt for prompt in asking)


def test_a_text_without_words_has_no_prompt():
    assert prompts_of("4.50 - 10 %", 5) == [None] * 5


def test_some_words_are_replaced_by_near_ones():
    class Near:
        def pick(self, word, _):
            return word.upper()

    rng = random.Random(0)
    words = [word for _ in range(40) for word in keyword_prompt(TICKET, Near(), rng).rstrip("?.").split()]
    assert {"TICKET", "ticket"} <= set(words)
