"""A NaN or an infinity among weights is found, in every dtype, and nothing else is taken for one."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from llamafarm_ray.errors import InputError
from llamafarm_ray.storage.formats import finite
from llamafarm_ray.storage.formats.finite import NotFinite, find_not_finite
from llamafarm_ray.storage.formats.safetensors import TensorEntry, read_tensors

NAN, INFINITY = float("nan"), float("inf")
SIXTEEN_AND_MORE = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
EIGHT = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]


def saved(folder, **tensors):
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


def file_of(path, dtype, data):
    """One tensor of bytes."""
    header = json.dumps({"w": {"dtype": dtype, "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize("dtype", SIXTEEN_AND_MORE, ids=str)
@pytest.mark.parametrize("bad", [NAN, -NAN, INFINITY, -INFINITY])
def test_each_bad_value_is_counted(tmp_path, dtype, bad):
    values = torch.zeros(1000, dtype=dtype)
    values[[0, 7, 999]] = bad
    path = saved(tmp_path, clean=torch.ones(3, dtype=dtype), spoilt=values)
    found = find_not_finite([path])
    assert (found.file, found.tensor, found.num_not_finite) == ("adapter_model.safetensors", "spoilt", 3)
    assert str(found).startswith("3 of the ")
    assert "'spoilt' in adapter_model.safetensors" in str(found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *EIGHT], ids=str)
def test_of_all_numbers_that_a_small_dtype_can_write_those_are_found_that_torch_finds(tmp_path, dtype):
    size = torch.empty((), dtype=dtype).element_size()
    words = torch.arange(2 ** (8 * size)).to(torch.uint16 if size == 2 else torch.uint8)
    values = words.view(dtype)
    expected = int((~torch.isfinite(values.to(torch.float32))).sum())
    found = find_not_finite([saved(tmp_path, w=values)])
    assert found == NotFinite("adapter_model.safetensors", "w", values.numel(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_largest_and_the_smallest_numbers_are_numbers(tmp_path, dtype):
    limits = torch.finfo(dtype)
    values = torch.tensor([limits.max, limits.min, limits.tiny, limits.tiny / 2, -0.0, 0.0], dtype=dtype)
    assert find_not_finite([saved(tmp_path, w=values)]) is None


@pytest.mark.parametrize("dtype", ["I8", "U8", "BOOL"])
def test_whole_numbers_are_numbers_whatever_their_bits(tmp_path, dtype):
    assert find_not_finite([file_of(tmp_path / "w.safetensors", dtype, bytes(range(256)))]) is None


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64], ids=str)
def test_whole_numbers_with_the_bits_of_a_nan_are_numbers(tmp_path, dtype):
    assert find_not_finite([saved(tmp_path, w=torch.full((8,), -1, dtype=dtype))]) is None


def test_the_first_of_several_files_and_tensors_is_named(tmp_path):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file({"a": torch.zeros(2), "b": torch.zeros(0), "c": torch.tensor(1.0)}, first)
    save_file({"d": torch.zeros(2), "e": torch.tensor(NAN)}, second)
    assert find_not_finite([first]) is None
    assert find_not_finite([first, second]) == NotFinite("2.safetensors", "e", 1, 1)


@pytest.mark.parametrize("place", [0, 1023, 1024, 4999])
def test_a_bad_value_is_found_in_whichever_piece_it_is(tmp_path, monkeypatch, place):
    monkeypatch.setattr(finite, "_PIECE_BYTES", 4096)
    values = torch.zeros(5000)
    values[place] = NAN
    assert find_not_finite([saved(tmp_path, w=values)]).num_not_finite == 1


def test_a_long_name_is_cut_in_the_finding(tmp_path):
    found = find_not_finite([saved(tmp_path, **{"n" * 10_000: torch.tensor(NAN)})])
    assert len(str(found)) < 300


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = saved(tmp_path, w=torch.zeros(100))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"^'{path.name}' is no sound safetensors file"):
        find_not_finite([path])


def test_a_file_that_is_cut_off_after_its_header_was_read_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, w=torch.zeros(100))
    listed = read_tensors(path)
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(finite, "read_tensors", lambda _, **__: listed)
    with pytest.raises(InputError, match="cut off while it was read"):
        find_not_finite([path])


def test_a_header_lists_its_tensors_in_the_order_of_their_bytes(tmp_path):
    path = saved(tmp_path, a=torch.zeros(2, 3), b=torch.zeros(1, dtype=torch.float64))
    double, single = read_tensors(path)
    assert single == TensorEntry("a", "F32", (2, 3), double.end, path.stat().st_size)
    assert (double.name, double.dtype, double.end - double.begin) == ("b", "F64", 8)
