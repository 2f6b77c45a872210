"""A GGUF file's tokenizer as one of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert.pre_tokenizers import named_pre_tokenizer
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.storage.formats.gguf import GgufHeader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BYTE", "CONTROL", "NORMAL", "SPACE", "UNKNOWN", "UNUSED", "USER_DEFINED", "load_gguf_tokenizer"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's types of tokens."""


SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""The letter that sentencepiece writes for a space."""
_FACTS = "tokenizer.ggml."
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_HINT = "Download the file again, or convert the original model."
_NUM_NAMED = 3
_TEMPLATE = "tokenizer.chat_template"


def load_gguf_tokenizer(header: GgufHeader) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a file describes, chat template and special tokens included.

    Raises:
        InputError: the file has no tokenizer, or an unsound one.
        UnsupportedError: it is of a kind that is not converted.
    """
    facts = {key.removeprefix(_FACTS): value for key, value in header.facts.items() if key.startswith(_FACTS)}
    tokens, types, kind = facts.get("tokens"), facts.get("token_type"), facts.get("model")
    if not isinstance(tokens, list) or not tokens:
        raise InputError("The file has no tokenizer.", hint="Convert the original model, tokenizer included.")
    if not isinstance(types, list) or len(types) != len(tokens):
        types = [NORMAL] * len(tokens)
    if len(set(tokens)) != len(tokens):
        raise InputError("The file's tokenizer has a token twice.", hint=_HINT)
    try:
        if kind == "gpt2":
            inner = _byte_level(facts, tokens, types)
        elif kind == "llama":
            inner = _pieces(facts, tokens, types)
        else:
            raise UnsupportedError(
                f"The file has a tokenizer of kind {str(kind)[:40]!r}; gpt2 and llama are converted.",
                hint="Serve the file as it is, with engine gguf.",
            )
        _surround(inner, facts, tokens)
    except UNREADABLE as error:
        raise InputError(f"The file's tokenizer is unsound: {first_line(error)}", hint=_HINT) from error
    _check(inner, tokens, types)
    names = {name: tokens[facts[f"{fact}_token_id"]] for name, fact in _SPECIAL.items() if f"{fact}_token_id" in facts}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)
    if length := header.of_architecture("context_length"):
        tokenizer.model_max_length = length
    tokenizer.chat_template = _templates(header.facts)
    return tokenizer


def _templates(facts: Mapping[str, object]) -> str | dict[str, str] | None:
    """Return the chat template; with others beside it, all of them by their names."""
    names = facts.get(f"{_TEMPLATE}s")
    found = {name: facts.get(f"{_TEMPLATE}.{name}") for name in names} if isinstance(names, list) else {}
    named = {name: text for name, text in found.items() if isinstance(text, str)}
    default = facts.get(_TEMPLATE)
    if not isinstance(default, str):
        return named or None
    return {"default": default, **named} if named else default


def _byte_level(facts: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    split = named_pre_tokenizer(str(facts.get("pre", "default")))
    vocabulary = {token: index for index, token in enumerate(tokens) if types[index] != UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in facts.get("merges", [])]
    inner = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split.ignores_merges))
    inner.pre_tokenizer = split.build()
    inner.decoder = decoders.ByteLevel()
    _add_special(inner, tokens, types)
    return inner


def _pieces(facts: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """Return a sentencepiece tokenizer as llama.cpp has it, for any class of the original model's."""
    scores = facts.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise InputError("The file's tokenizer has no scores of its tokens.", hint=_HINT)
    vocabulary = {token: index for index, token in enumerate(tokens) if types[index] != UNUSED}
    merges = _merges({token: index for token, index in vocabulary.items() if types[index] == NORMAL}, scores)
    unknown = facts.get("unknown_token_id")
    inner = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token=tokens[unknown] if unknown is not None else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if facts.get("add_space_prefix", True):
        inner.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
        inner.decoder = decoders.Sequence([*decoding, decoders.Strip(" ", 1, 0)])
    else:
        inner.normalizer = spaces
        inner.decoder = decoders.Sequence(decoding)
    _add_special(inner, tokens, types)
    return inner


def _merges(normal: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return the pairs that make tokens, those of the highest score first, which llama.cpp merges first."""
    found = []
    for token, index in normal.items():
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in pairs if left in normal and right in normal]
        found += [(-scores[index], index, left, right) for left, right in sorted(known, key=lambda p: normal[p[0]])]
    found.sort(key=lambda one: one[:2])
    return [(left, right) for _, _, left, right in found]


def _add_special(inner: Tokenizer, tokens: list[str], types: list[int]) -> None:
    for index, token in enumerate(tokens):
        if types[index] in {CONTROL, USER_DEFINED}:
            inner.add_tokens([AddedToken(token, normalized=False, special=types[index] == CONTROL)])


def _surround(inner: Tokenizer, facts: Mapping[str, Any], tokens: list[str]) -> None:
    """Make a tokenizer put the same tokens around a text as llama.cpp."""
    is_pieces = facts["model"] == "llama"
    usual = is_pieces or named_pre_tokenizer(str(facts.get("pre", "default"))).adds_bos
    begin = [tokens[facts["bos_token_id"]]] if facts.get("add_bos_token", usual) and "bos_token_id" in facts else []
    end = [tokens[facts["eos_token_id"]]] if facts.get("add_eos_token", False) and "eos_token_id" in facts else []
    if not begin and not end:
        if not is_pieces:
            inner.post_processor = processors.ByteLevel(trim_offsets=False)
        return
    inner.post_processor = processors.TemplateProcessing(
        single=[*begin, "$A", *end],
        pair=[*begin, "$A", *end, *(f"{token}:1" for token in begin), "$B:1", *(f"{token}:1" for token in end)],
        special_tokens=[(token, tokens.index(token)) for token in dict.fromkeys([*begin, *end])],
    )


def _check(inner: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Check that tokens have their ids, and that special ones stay whole.

    Raises:
        InputError: a token has another id; the message has the first ones.
    """
    found = inner.get_vocab()
    is_named = {CONTROL, USER_DEFINED}
    strange = [
        token
        for index, token in enumerate(tokens)
        if types[index] in is_named and inner.encode(token, add_special_tokens=False).ids != [index]
    ]
    strange += [token for token, index in found.items() if index >= len(tokens)]
    strange += [t for i, t in enumerate(tokens) if types[i] in {NORMAL, BYTE} and found.get(t, i) != i]
    if strange:
        listed = ", ".join(repr(token) for token in strange[:_NUM_NAMED])
        raise InputError(f"{len(strange)} tokens of the file's tokenizer get other ids: {listed}.", hint=_HINT)
