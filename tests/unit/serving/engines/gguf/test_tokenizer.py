"""A GGUF file's tokens become text as llama.cpp has it, whatever kind of tokenizer the file has."""

import pytest

from llamafarm_ray.errors import InputError, UnsupportedError, UserError
from llamafarm_ray.serving.engines.gguf.tokenizer import GgufTokenizer

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
PIECES = {
    "<s>": CONTROL,
    "</s>": CONTROL,
    "<0xC3>": BYTE,
    "<0xA4>": BYTE,
    "\N{LOWER ONE EIGHTH BLOCK}the": NORMAL,
    "\N{LOWER ONE EIGHTH BLOCK}": NORMAL,
    "llama": NORMAL,
    "<tool>": USER_DEFINED,
}
TEXT = [5, 6, 4, 5, 2, 3, 7]
"""`` llama the ä<tool>`` in those, with the space that sentencepiece puts before a text."""


def facts(kind="llama", tokens=PIECES, **more):
    said = {"model": kind, "tokens": list(tokens), "token_type": list(tokens.values()), "eos_token_id": 1}
    return {f"tokenizer.ggml.{name}": value for name, value in (said | more).items()}


def tokenizer(tokens=(), **more):
    return GgufTokenizer(facts(**more), "model.gguf", lambda *_: list(tokens))


def test_pieces_and_bytes_become_text():
    made = tokenizer()
    assert made.decode(TEXT) == " llama the ä<tool>"
    assert made.decode([0, 4, 1]) == "<s> the</s>"
    assert made.decode([0, 4, 1], skip_special_tokens=True) == " the"
    assert made.decode([2]) == "\N{REPLACEMENT CHARACTER}"
    assert made.convert_ids_to_tokens([6, 2]) == ["llama", "<0xC3>"]
    assert (len(made), made.eos_token_id, made.all_special_ids) == (8, 1, [0, 1])
    assert sorted(made.added_tokens_decoder) == [0, 1, 7]


def test_the_place_of_a_token_is_told_without_the_space_before_a_text():
    places = tokenizer(TEXT)("llama the ä<tool>", return_offsets_mapping=True)["offset_mapping"]
    assert places == [(0, 0), (0, 5), (5, 9), (9, 10), (10, 11), (10, 11), (11, 17)]
    with pytest.raises(UserError, match="spell another"):
        tokenizer(TEXT)("Llama", return_offsets_mapping=True)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"tokens": None}, InputError),
        ({"tokens": "abc"}, InputError),
        ({"tokens": [1] * 8}, InputError),
        ({"token_type": [1]}, InputError),
        ({"token_type": ["x"] * 8}, InputError),
        ({"model": "rwkv"}, UnsupportedError),
        ({"model": None}, UnsupportedError),
    ],
)
def test_a_file_without_a_tokenizer_that_is_known_is_refused(changed, error):
    said = facts() | {f"tokenizer.ggml.{name}": value for name, value in changed.items()}
    with pytest.raises(error):
        GgufTokenizer(said, "model.gguf", lambda *_: [])


def test_an_end_of_text_that_is_no_token_is_none():
    assert [tokenizer(eos_token_id=token).eos_token_id for token in (8, -1, "x", None)] == [None] * 4
