import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.mixing import _shared_schema, _with_schema, repetitions, shares
from llamafarm_ray.errors import InputError


def test_an_epoch_has_as_many_rows_as_all_datasets_in_proportion_to_the_weights():
    assert shares([100, 100], [1, 1]) == [100, 100]
    assert shares([900, 100], [1, 1]) == [500, 500]
    assert shares([900, 100], [3, 1]) == [750, 250]
    assert shares([1, 1, 1], [1, 1, 1e-9]) == [2, 1, 0]


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.01, 100)), min_size=1, max_size=6))
def test_shares_are_within_a_row_of_their_weights_and_none_is_lost(parts):
    sizes, weights = zip(*parts, strict=True)
    found = shares(sizes, weights)
    assert sum(found) == sum(sizes)
    for count, weight in zip(found, weights, strict=True):
        assert abs(count - sum(sizes) * weight / sum(weights)) < 1 + 1e-6


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_rows_are_taken_without_replacement_until_they_are_used_up_and_then_again(size, count, seed):
    found = repetitions(size, count, seed=seed, index=0)
    assert found.sum() == count
    assert found.max() - found.min() <= 1


def test_the_part_that_is_taken_is_the_seeds_choice():
    one, other = (repetitions(100, 50, seed=seed, index=0) for seed in (0, 1))
    assert np.array_equal(one, repetitions(100, 50, seed=0, index=0))
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, repetitions(100, 50, seed=0, index=1))


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([3, 0], [1, 1], "Dataset 2 of the mixture has no rows"),
        ([3, 3], [1, 0], "Dataset 2 of the mixture has the weight 0"),
        ([3, 3], [1, float("nan")], "weight nan"),
        ([3], [1, 2], "1 datasets has 2 weights"),
        ([], [], "0 datasets"),
    ],
)
def test_what_can_not_be_mixed_is_refused(sizes, weights, message):
    with pytest.raises(InputError, match=message):
        shares(sizes, weights)


def test_blocks_without_tools_or_marks_get_nulls_beside_blocks_that_have_them():
    turn = [("role", pa.string()), ("content", pa.string())]
    plain = pa.schema([("id", pa.string()), ("messages", pa.list_(pa.struct(turn)))])
    marked = pa.schema(
        [
            ("id", pa.string()),
            ("messages", pa.list_(pa.struct([*turn, ("train", pa.bool_())]))),
            ("note", pa.string()),
            ("tools", pa.string()),
        ]
    )
    schema = _shared_schema([plain, marked])
    assert schema.names == ["id", "messages", "tools"]
    row = {"id": "a", "messages": [{"role": "user", "content": "Q?"}]}
    (made,) = _with_schema(pa.Table.from_pylist([row], schema=plain), schema).to_pylist()
    assert made == {"id": "a", "messages": [{"role": "user", "content": "Q?", "train": None}], "tools": None}
    with pytest.raises(InputError, match="rows of different kinds"):
        _shared_schema([plain, pa.schema([("id", pa.string()), ("text", pa.string())])])
