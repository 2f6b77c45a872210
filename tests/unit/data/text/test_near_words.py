"""Words of like meaning."""

import random

import pytest

from llamafarm_ray.data.text.near_words import NearWords

WORDS = ("price", "cost", "fee", "dog", "cat", "puppy", "stone", "Seven", "7", "zzqx", "water")


@pytest.fixture(scope="module")
def near():
    return NearWords(WORDS)


def picked(near, word, times=50):
    rng = random.Random(0)
    return {near.pick(word, rng) for _ in range(times)}


def test_a_word_is_replaced_by_words_of_like_meaning_from_the_vocabulary(near):
    assert picked(near, "price") <= {"cost", "fee"}
    assert "cost" in picked(near, "price")
    assert "dog" in picked(near, "puppy")


def test_names_and_words_without_a_near_one_stay(near):
    assert picked(near, "Kettlebrook") == {"Kettlebrook"}
    assert picked(near, "zzqx") == {"zzqx"}
    assert picked(NearWords(()), "price") == {"price"}


def test_a_capital_of_a_known_word_is_no_name(near):
    assert picked(near, "Price") <= {"cost", "fee"}


def test_some_words_of_a_question_are_replaced_and_those_to_be_kept_never(near):
    rng = random.Random(0)
    made = [near.replace_some("What is the price of a puppy in 1990?", {"what", "price"}, rng) for _ in range(30)]
    assert all("price" in one and one.startswith("What is") and one.endswith("1990?") for one in made)
    assert {"puppy", "dog"} <= {one.split(" of a ")[1].split()[0] for one in made}


def test_the_random_generator_decides(near):
    first, again = (near.pick("price", random.Random(4)) for _ in range(2))
    assert first == again
