"""A text's fewest tokens by its characters: never more than it has, and none where a token may hold any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import make_tiny_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llamafarm_ray.models.token_bound import token_bound

TOKENIZER = make_tiny_tokenizer()
COMPOSED = make_tiny_tokenizer()
COMPOSED.backend_tokenizer.normalizer = normalizers.NFC()
STRIPPING = make_tiny_tokenizer()
STRIPPING.add_tokens([AddedToken("<end>", lstrip=True, rstrip=True)])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, COMPOSED, STRIPPING])
@given(text=st.text(alphabet="ab \n<>end e\u0301\u00e9\u1f82\u1112\u1161\u11ab", max_size=80))
def test_no_text_has_fewer_tokens_than_the_bound(tokenizer, text):
    assert token_bound(tokenizer).least(text) <= len(tokenizer(text).input_ids)


def test_the_longest_token_says_how_many_characters_a_token_has():
    longest = max(map(len, TOKENIZER.get_vocab()))
    bound = token_bound(TOKENIZER)
    assert bound.max_chars == longest
    assert bound.least("x" * (10 * longest)) == 10
    assert bound.least("x" * (10 * longest + 1)) == 11


def test_space_that_a_tokenizer_drops_does_not_count():
    text = f"<end>{' ' * 5000}"
    assert len(STRIPPING(text).input_ids) == 1
    assert token_bound(STRIPPING).least(text) == 1


def test_a_letter_may_stand_for_four_characters_where_they_are_composed():
    text = "\u03b1\u0313\u0300\u0345" * 3000
    assert len(COMPOSED.backend_tokenizer.normalizer.normalize_str(text)) == 3000
    assert token_bound(COMPOSED).least(text) == -(-3000 // token_bound(COMPOSED).max_chars)
    assert token_bound(COMPOSED).least("a" + "\u0301\u0323" * 10**6) > 0  # at once: marks in a row are not sorted


UNKNOWN = "[UNK]"
WORDS = {UNKNOWN: 0, "a": 1}
PIECES = [("<unk>", 0.0), ("a", -1.0)]
BYTES = {**{f"<0x{byte:02X}>": byte for byte in range(256)}, "a": 256}


@pytest.mark.parametrize(
    ("model", "normalizer", "splitter"),
    [
        (models.WordPiece(WORDS, unk_token=UNKNOWN), None, None),
        (models.Unigram(PIECES, unk_id=0), None, None),
        (models.BPE(WORDS, [], unk_token=UNKNOWN, fuse_unk=True), None, None),
        (models.BPE(WORDS, []), None, pre_tokenizers.ByteLevel()),
        (models.BPE(BYTES, [], byte_fallback=True), normalizers.Strip(), None),
        (models.BPE(BYTES, [], byte_fallback=True), normalizers.Replace(Regex(" +"), " "), None),
        (models.BPE(BYTES, [], byte_fallback=True), None, pre_tokenizers.Split(" ", "removed")),
        (models.BPE(BYTES, [], byte_fallback=True), None, pre_tokenizers.WhitespaceSplit()),
    ],
    ids=["words", "pieces", "unknown-fused", "bytes-missing", "stripped", "shortened", "removed", "whitespace"],
)
def test_there_is_no_bound_where_text_may_be_lost(model, normalizer, splitter):
    inner = Tokenizer(model)
    if normalizer is not None:
        inner.normalizer = normalizer
    if splitter is not None:
        inner.pre_tokenizer = splitter
    assert token_bound(PreTrainedTokenizerFast(tokenizer_object=inner)) is None


def test_sentencepiece_with_every_byte_has_a_bound():
    inner = Tokenizer(models.BPE(BYTES, [], byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
    assert token_bound(PreTrainedTokenizerFast(tokenizer_object=inner)).max_chars == len("<0x00>")
