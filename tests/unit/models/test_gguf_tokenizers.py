"""The split of texts is recognized by what a tokenizer does, and both kinds of tokenizers survive the format."""

import json

import pytest
from tiny_model import SENTENCES, make_tiny_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.convert.gguf_tokenizer import load_gguf_tokenizer
from llamafarm_ray.models.convert.pre_tokenizers import PRE_TOKENIZERS, recognized_pre_tokenizer
from llamafarm_ray.models.convert.tokenizer_facts import tokenizer_facts
from llamafarm_ray.storage.formats.gguf import GgufHeader

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
TEXTS = (*SENTENCES, "1234567 in 2024", " two  spaces", "naïve Ünïcode 你好", "a\nb\t\tc")


def backend(split, *, ignore_merges=False):
    inner = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    inner.pre_tokenizer = split
    return inner


def through_gguf(tokenizer, num_tokens=None, architecture="llama"):
    """A tokenizer as it is after it was written to facts."""
    facts = tokenizer_facts(tokenizer, num_tokens or len(tokenizer))
    named = {f"tokenizer.ggml.{key}": value for key, value in facts.items()}
    return load_gguf_tokenizer(GgufHeader({"general.architecture": architecture, **named}, ()))


@pytest.mark.parametrize("known", PRE_TOKENIZERS, ids=lambda known: known.name)
def test_each_known_split_is_recognized(known):
    assert recognized_pre_tokenizer(backend(known.build(), ignore_merges=known.ignores_merges)) is known


def test_splits_are_recognized_in_other_spellings():
    digits = pre_tokenizers.Digits(individual_digits=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert recognized_pre_tokenizer(backend(plain)).name == "gpt-2"
    assert recognized_pre_tokenizer(backend(pre_tokenizers.Sequence([digits, plain]))).name == "smollm"


def test_a_split_without_a_name_is_refused_with_the_nearest_one():
    odd = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}{1,2}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(UnsupportedError, match=r"the nearest is (gpt-2|smollm), but for .Hello world"):
        recognized_pre_tokenizer(backend(odd))


def test_a_text_that_is_changed_before_it_is_split_is_refused():
    tokenizer = make_tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UnsupportedError, match=r"changes texts before it splits them \(Lowercase\)"):
        tokenizer_facts(tokenizer, len(tokenizer))


def test_special_and_added_tokens_stay_what_they_are():
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["<think>"])
    found = through_gguf(tokenizer)
    text = "<|im_start|>user\n<think>A llama</think><|im_end|>"
    assert found(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert found.decode(found(text)["input_ids"], skip_special_tokens=True) == "user\n<think>A llama</think>"


@pytest.mark.parametrize(("begin", "end"), [(True, False), (False, True), (True, True)])
def test_tokens_around_a_text_are_kept(begin, end):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tiny_tokenizer()
    around = [*(["<s>"] if begin else []), "$A", *(["</s>"] if end else [])]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=around, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    found = through_gguf(tokenizer)
    assert found("A farm")["input_ids"] == tokenizer("A farm")["input_ids"]
    assert len(found("A farm")["input_ids"]) == len(tokenizer("A farm", add_special_tokens=False)["input_ids"]) + (
        begin + end
    )


NAMES = dict(zip(("unk_token", "bos_token", "eos_token"), ("<unk>", "<s>", "</s>"), strict=True))


def sentencepiece_tokenizer(*, prepends):
    """A tokenizer like Llama 2's (with a space before each text) or Gemma's (without), trained on a few sentences."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, **dict(list(NAMES.items())[:1])))
    replaced = normalizers.Replace(" ", SPACE)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replaced]) if prepends else replaced
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    inner.train_from_iterator(SENTENCES * 3, trainer)
    inner.pre_tokenizer = None
    described = json.loads(inner.to_str())
    described["added_tokens"] = described["added_tokens"][:3]
    inner = Tokenizer.from_str(json.dumps(described))
    inner.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prepends else [])
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, **NAMES)


@pytest.mark.parametrize(("architecture", "prepends"), [("llama", True), ("gemma2", False), ("phi3", True)])
def test_sentencepiece_tokens_are_the_same_after_a_round_trip(architecture, prepends):
    tokenizer = sentencepiece_tokenizer(prepends=prepends)
    found = through_gguf(tokenizer, architecture=architecture)
    assert [found(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert found.decode(found("A llama is small.")["input_ids"]) == "A llama is small."
