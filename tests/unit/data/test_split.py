"""The split holds out phrasings of facts that stay in training, the same ones every time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.split import choose_split

ROWS = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.text("xyz", max_size=2), min_size=1).map(
    lambda rows: list(rows.items())
)
RATIOS = st.floats(0, 0.99)


@given(ROWS, RATIOS, st.integers(0, 3), st.randoms())
def test_the_order_of_rows_does_not_matter(rows, ratio, seed, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert choose_split(rows, ratio=ratio, seed=seed) == choose_split(shuffled, ratio=ratio, seed=seed)


@given(ROWS, RATIOS, st.integers(0, 3))
def test_each_fact_with_a_held_out_phrasing_is_trained_on(rows, ratio, seed):
    split = choose_split(rows, ratio=ratio, seed=seed)
    trained = {fact for row_id, fact in rows if row_id not in split.validation}
    if split.held_out == "phrasings":
        assert trained == {fact for _, fact in rows}
    if split.held_out == "facts":
        assert set(Counter(fact for _, fact in rows).values()) == {1}


@given(ROWS, st.floats(0.001, 0.99), st.integers(0, 3))
def test_both_sides_get_a_row_where_there_are_two(rows, ratio, seed):
    split = choose_split(rows, ratio=ratio, seed=seed)
    assert (0 < len(split.validation) < len(rows)) == (len(rows) > 1)


@given(ROWS, st.integers(0, 3))
def test_ratio_zero_holds_out_nothing(rows, seed):
    split = choose_split(rows, ratio=0, seed=seed)
    assert split.validation == frozenset()
    assert split.held_out == "nothing"


def test_the_ratio_is_kept_where_facts_have_phrasings_to_spare():
    rows = [(f"{fact}-{phrasing}", str(fact)) for fact in range(100) for phrasing in range(4)]
    assert len(choose_split(rows, ratio=0.2, seed=0).validation) == 80


def test_another_seed_holds_out_others():
    rows = [(f"{fact}-{phrasing}", str(fact)) for fact in range(100) for phrasing in range(4)]
    assert choose_split(rows, ratio=0.2, seed=0) != choose_split(rows, ratio=0.2, seed=1)
