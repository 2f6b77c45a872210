"""Near duplicates are found, only they, and always the same ones stay."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.quality.near_duplicates import Bands, jaccard, near_duplicates, resolve, sign
from llamafarm_ray.data.quality.shingles import _normal_forms
from llamafarm_ray.data.text import normal_form

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("ar", "el", "in", "o", "ub") for c in ("", "an", "est", "ily")]


def text(source, count=100):
    return " ".join(source.choices(WORDS, k=count)) + "."


def edited(source, original, similarity):
    """Return a text about as similar to ``original`` as asked, never less."""
    words = original.split()
    best = original
    for place in source.sample(range(len(words)), len(words)):
        words[place] = source.choice(WORDS)
        if jaccard(original, " ".join(words)) < similarity:
            return best
        best = " ".join(words)
    return best


def planted(count=150, similarity=0.8):
    source = random.Random(5)
    originals = [text(source) for _ in range(count)]
    copies = [edited(source, original, similarity) for original in originals]
    return originals, copies, [text(source) for _ in range(count)]


def test_planted_near_duplicates_at_the_threshold_are_found_and_nothing_else():
    originals, copies, others = planted()
    similarities = [jaccard(original, copy) for original, copy in zip(originals, copies, strict=True)]
    assert min(similarities) >= 0.8
    assert np.mean(similarities) < 0.84
    dropped = near_duplicates([*originals, *others, *copies], threshold=0.8)
    first_copy = len(originals) + len(others)
    right = {index for index, kept in dropped.items() if index - first_copy == kept}
    assert len(right) >= 0.95 * len(copies)
    assert len(right) >= 0.95 * len(dropped)


def test_less_similar_texts_stay():
    originals, copies, _ = planted(similarity=0.6)
    dropped = near_duplicates([*originals, *copies], threshold=0.8)
    assert all(jaccard(originals[kept], copies[index - len(originals)]) >= 0.8 for index, kept in dropped.items())
    assert len(dropped) <= 0.05 * len(copies)


def test_no_exact_duplicate_is_left():
    texts = ["The gate opens at 8.", "the gate   opens at 8", "The gate opens at 9.", "Yes.", "yes", "...", "!?", "No."]
    assert near_duplicates(texts, threshold=0.9) == {1: 0, 4: 3, 6: 5}


@pytest.mark.parametrize("seed", range(3))
def test_the_same_texts_stay_in_any_order_and_in_any_blocks(seed):
    originals, copies, others = planted(30)
    texts = sorted([*originals, *copies, *others, *originals[:5]])
    expected = {texts[index] for index in near_duplicates(texts, threshold=0.8)}
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    shuffled = [texts[index] for index in order]
    bands = Bands.for_threshold(0.8)
    blocks = [sign(shuffled[start : start + 7], bands) for start in range(0, len(shuffled), 7)]
    whole = sign(shuffled, bands)
    assert np.array_equal(np.concatenate([block.bands for block in blocks]), whole.bands)
    assert [digest for block in blocks for digest in block.digests] == whole.digests
    dropped = resolve(whole, np.array(order), shuffled.__getitem__, threshold=0.8)
    assert {shuffled[index] for index in dropped} == expected
    assert sorted(order[index] for index in dropped) == sorted(near_duplicates(texts, threshold=0.8))


def test_a_dropped_text_is_like_one_that_stays():
    source = random.Random(1)
    chain = [text(source)]
    for _ in range(8):
        chain.append(edited(source, chain[-1], 0.85))
    dropped = near_duplicates(chain, threshold=0.8)
    assert dropped
    for index, kept in dropped.items():
        assert kept not in dropped
        assert jaccard(chain[index], chain[kept]) >= 0.8


def test_many_copies_leave_one():
    source = random.Random(2)
    original = text(source)
    copies = [edited(source, original, 0.93) for _ in range(100)]
    assert len([index for index in range(101) if index not in near_duplicates([original, *copies], threshold=0.8)]) == 1


def test_scripts_without_spaces():
    one = "図書館は朝八時に開き、夜八時に閉まります。日曜日は休みです。"
    assert near_duplicates([one, one.replace("休みです", "休みだ")], threshold=0.6) == {1: 0}
    assert near_duplicates([one, "博物館は九時に開きます。"], threshold=0.6) == {}


def test_a_caller_can_keep_pairs_that_differ_in_another_way():
    one = "The garden room of the old mill costs 10 euros for each hour of the day and it has a window to the river"
    other = one.replace("10", "12")
    assert near_duplicates([one, other], threshold=0.6) == {1: 0}
    assert near_duplicates([one, other], threshold=0.6, may_drop=lambda _dropped, _kept: False) == {}


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_let_pairs_at_the_threshold_meet(threshold):
    bands = Bands.for_threshold(threshold)
    assert bands.count * bands.rows <= 128
    assert 1 - (1 - threshold**bands.rows) ** bands.count >= 0.97


def words_of(text):
    return _normal_forms([text])[0].decode("utf-8", "surrogatepass").split(" ")


@given(st.text(st.sampled_from("ab5.,:$%+- \n(") | st.characters(codec="ascii"), max_size=30))
def test_ascii_words_say_what_the_normal_form_says(text):
    assert "".join(words_of(text)) == normal_form(text).replace(" ", "")


def similarity_of_sets(one, other):
    sets = []
    for text in (one, other):
        words = [word for word in words_of(text) if word]
        runs = {tuple(words[at : at + 3]) for at in range(len(words) - 2)}
        sets.append(runs or ({tuple(words)} if words else set()))
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 0.0


SOME_WORDS = st.sampled_from(
    ["mill", "Mill", "opens", "3.5", "caf\u00e9", "\u56f3\u66f8\u9928", "a" * 8, "a" * 9, "-", "on 7"]
)


@given(st.lists(SOME_WORDS, max_size=8), st.lists(SOME_WORDS, max_size=8))
def test_the_similarity_is_that_of_sets_of_three_words(one, other):
    one, other = " ".join(one), " ".join(other)
    assert jaccard(one, other) == pytest.approx(similarity_of_sets(one, other))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 63, 64, 65, 200])
def test_words_that_differ_in_one_letter_are_different(length):
    one, other = "b" * length, "b" * (length - 1) + "c"
    assert jaccard(f"the {one} opens", f"the {one} opens") == 1.0
    assert jaccard(f"the {one} opens", f"the {other} opens") == 0.0
    assert jaccard(one, other) == 0.0
    assert jaccard(one, f"{one}b") == 0.0


def test_a_sign_outside_of_ascii_makes_no_other_words():
    one = 'He said: "The mill opens at 8.30 and closes at 17:00."'
    assert near_duplicates([one, one.replace('"', "\u201d")], threshold=0.9) == {1: 0}


def test_nothing_has_no_duplicates():
    assert near_duplicates([], threshold=0.8) == {}
