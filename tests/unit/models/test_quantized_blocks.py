"""Blocks of few bits are those of ggml, and each tensor gets the type that llama.cpp would give it."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert import quantizing
from llamafarm_ray.models.convert.precisions import GGUF_PRECISIONS, gguf_precision, tensor_type
from llamafarm_ray.models.convert.quantizing import encoded

VALUES = np.random.default_rng(0).normal(size=(33, 512)).astype(np.float32)


@pytest.mark.parametrize(
    "kind", [Type.Q4_0, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.F16, Type.BF16], ids=lambda k: k.name
)
def test_blocks_are_those_of_the_reference(kind):
    assert encoded(VALUES, kind).tobytes() == gguf.quants.quantize(VALUES, kind).tobytes()


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Type.Q3_K, 0.2), (Type.Q4_K, 0.1), (Type.Q5_K, 0.05), (Type.Q6_K, 0.025)],
    ids=lambda value: getattr(value, "name", value),
)
def test_k_quants_are_near_the_values(kind, error):
    found = gguf.quants.dequantize(encoded(VALUES, kind), kind)
    assert np.linalg.norm(found - VALUES) / np.linalg.norm(VALUES) < error


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q5_0, Type.Q3_K, Type.Q4_K, Type.Q6_K], ids=lambda k: k.name)
def test_columns_that_count_more_are_nearer_to_their_values(kind):
    importance = np.full(512, 1e-2, dtype=np.float32)
    importance[::8] = 100.0

    def error(**options):
        found = gguf.quants.dequantize(encoded(VALUES, kind, **options), kind)
        return np.square(found - VALUES)[:, ::8].mean()

    assert error(importance=importance) < 0.9 * error()


def test_rows_in_parts_are_as_in_one(monkeypatch):
    whole = encoded(VALUES, Type.Q4_K)
    monkeypatch.setattr(quantizing, "_ROWS_AT_ONCE_BYTES", 1)
    assert np.array_equal(encoded(VALUES, Type.Q4_K), whole)


def test_without_llama_cpp_k_quants_are_refused_and_others_made(monkeypatch):
    monkeypatch.setattr(quantizing, "_ggml_quantize", lambda: None)
    assert encoded(VALUES, Type.Q8_0).tobytes() == gguf.quants.quantize(VALUES, Type.Q8_0).tobytes()
    with pytest.raises(UnsupportedError, match=r"llamafarm_ray\[gguf\]"):
        encoded(VALUES, Type.Q4_K)


def test_a_mix_gives_more_bits_to_the_layers_that_need_them():
    mix = GGUF_PRECISIONS["q4_k_m"]

    def kinds(name, width=512, num_layers=32, *, tied=False):
        names = [name.format(layer) for layer in range(num_layers)] if "{}" in name else [name]
        return [tensor_type(mix, one, (64, width), num_layers, tied=tied) for one in names]

    assert set(kinds("blk.{}.attn_q.weight")) == {Type.Q4_K}
    assert kinds("blk.{}.attn_v.weight").count(Type.Q6_K) == 16
    assert kinds("blk.{}.ffn_down.weight")[:4] == [Type.Q6_K] * 4
    assert kinds("output.weight") == [Type.Q6_K]
    assert kinds("token_embd.weight") == [Type.Q4_K]
    assert kinds("token_embd.weight", tied=True) == [Type.Q6_K]


@pytest.mark.parametrize(
    ("precision", "width", "kind"),
    [("q4_k_m", 576, Type.Q5_0), ("q6_k", 576, Type.Q8_0), ("q3_k_m", 96, Type.Q4_0), ("q4_k_m", 100, Type.F16)],
)
def test_rows_that_are_no_multiple_of_a_block_get_a_narrower_type(precision, width, kind):
    assert tensor_type(GGUF_PRECISIONS[precision], "blk.9.attn_q.weight", (8, width), 32, tied=False) is kind


def test_vectors_and_positions_stay_as_they_are():
    mix = GGUF_PRECISIONS["q4_0"]
    assert tensor_type(mix, "blk.0.attn_norm.weight", (64,), 2, tied=False) is Type.F32
    assert tensor_type(mix, "position_embd.weight", (64, 64), 2, tied=False) is Type.F32


def test_an_unknown_precision_is_refused_with_a_near_one():
    assert gguf_precision("Q4_K_M").name == "q4_k_m"
    with pytest.raises(InputError, match="q4_k_m"):
        gguf_precision("q4_km")
