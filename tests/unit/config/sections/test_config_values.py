"""Small values with a spelling of their own."""

import copy
import pickle
from typing import Any

import pytest

from llamafarm_ray.config import Comparison, Gpu, MemorySize, load_config, parse_config
from llamafarm_ray.config.values import FrozenMapping


@pytest.mark.parametrize(
    ("text", "measured", "holds"),
    [(">0.7", 0.7, False), (">=0.7", 0.7, True), ("< 0.2", 0.1, True), ("<=0.2", 0.3, False), (">0.0000001", 1, True)],
)
def test_a_comparison_judges(text: Any, measured: Any, holds: Any) -> None:
    comparison = Comparison.parse(text)
    assert comparison.holds(measured) is holds
    assert Comparison.parse(str(comparison)) == comparison


@pytest.mark.parametrize("text", ["0.7", "=0.7", ">", ">x", ">1e3", "> 0.7 or so", 0.7, None, True, ["a"]])
def test_what_is_no_comparison(text: Any) -> None:
    with pytest.raises(ValueError, match="must be a comparison"):
        Comparison.parse(text)


@pytest.mark.parametrize(
    ("value", "num_bytes"),
    [
        ("32Gi", 32 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1.5G", 1_500_000_000),
        ("2 GB", 2 * 10**9),
        ("1000", 1000),
        (4096, 4096),
    ],
)
def test_memory_in_bytes(value: Any, num_bytes: Any) -> None:
    size = MemorySize.parse(value)
    assert size.num_bytes == num_bytes
    assert str(size) == str(value)
    assert MemorySize.parse(str(size)) == size


@pytest.mark.parametrize("value", ["", "lots", "-1Gi", "0", "0Gi", 0, -5, 1.5, True, None, "999999999Ti", "1e3", "5Xi"])
def test_what_is_no_memory(value: Any) -> None:
    with pytest.raises(ValueError, match="must be an amount of memory"):
        MemorySize.parse(value)


@pytest.mark.parametrize(
    ("value", "count", "kind"),
    [
        ("1x_a100", 1, "a100"),
        ("4x_h100", 4, "h100"),
        ("2xL4", 2, "L4"),
        ("a10g", 1, "a10g"),
        ("0.5", 0.5, None),
        (2, 2, None),
        (0, 0, None),
    ],
)
def test_gpus_have_a_count_and_a_type(value: Any, count: Any, kind: Any) -> None:
    gpu = Gpu.parse(value)
    assert (gpu.count, gpu.type) == (count, kind)
    assert Gpu.parse(str(gpu)) == gpu


@pytest.mark.parametrize("value", ["", "0x_a100", "1.5", 1.5, -1, True, None, "1x_", "a b", 10**6])
def test_what_is_no_gpu(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a number of GPUs"):
        Gpu.parse(value)


def test_a_frozen_mapping_stays_as_it_is() -> None:
    mapping: Any = FrozenMapping({"a": 1})
    for change in (
        lambda: mapping.__setitem__("b", 2),
        lambda: mapping.update(b=2),
        lambda: mapping.pop("a"),
        mapping.clear,
        lambda: mapping.__ior__({"b": 2}),
    ):
        with pytest.raises(TypeError, match="can't be changed"):
            change()
    assert pickle.loads(pickle.dumps(mapping)) == copy.deepcopy(mapping) == {"a": 1}  # noqa: S301


def test_a_configuration_is_frozen_hashable_and_picklable() -> None:
    from pydantic import ValidationError

    config: Any = parse_config({"deployment": {"engine_kwargs": {"x": 1}, "adapters": ["a"]}, "tags": ["t"]})
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3
    with pytest.raises(TypeError):
        config.deployment.engine_kwargs["x"] = 2
    again = pickle.loads(pickle.dumps(config))  # noqa: S301
    assert again == config
    assert hash(again) == hash(config) == hash(copy.deepcopy(config))
    assert len({config, again, load_config(None)}) == 2
