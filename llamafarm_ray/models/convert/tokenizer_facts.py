"""A transformers tokenizer as the facts of a GGUF file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert.gguf_tokenizer import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED
from llamafarm_ray.models.convert.pre_tokenizers import recognized_pre_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenizer_facts"]

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_PROBE = "a"
_HINT = "Serve the model with vLLM or transformers instead."


def tokenizer_facts(
    tokenizer: PreTrainedTokenizerBase, num_tokens: int, end_ids: Sequence[int] = ()
) -> dict[str, object]:
    """Return the facts, without ``tokenizer.ggml.`` before their names; the chat template is not among them.

    Args:
        tokenizer: one of the ``tokenizers`` library, as transformers wraps it.
        end_ids: tokens that end an answer, beside the tokenizer's own.

    Raises:
        InputError: the tokenizer has more tokens than the model.
        UnsupportedError: llama.cpp has no tokenizer of that kind.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise UnsupportedError(f"Tokenizers of type {model['type']} are not converted to GGUF; BPE is.", hint=_HINT)
    vocabulary = tokenizer.get_vocab()
    if vocabulary and max(vocabulary.values()) >= num_tokens:
        raise InputError(
            f"The tokenizer has {max(vocabulary.values()) + 1} tokens, and the model's embeddings have "
            f"{num_tokens} rows.",
            hint="Take the tokenizer that belongs to the model.",
        )
    added = {token["id"]: token for token in described["added_tokens"]}
    if is_pieces := bool(model.get("byte_fallback")):
        facts = _pieces(described, vocabulary)
    else:
        facts = _byte_level(tokenizer.backend_tokenizer, described)
    tokens, types = _tokens(vocabulary, added, num_tokens, is_pieces=is_pieces, unknown=model.get("unk_token"))
    facts |= {"tokens": tokens, "token_type": types}
    if is_pieces:
        facts["scores"] = _scores(tokens, model["merges"])
    return facts | _special(tokenizer, end_ids) | _surrounding(tokenizer)


def _byte_level(backend: Tokenizer, described: Mapping[str, Any]) -> dict[str, object]:
    if described["pre_tokenizer"] is None:
        raise UnsupportedError("The tokenizer does not split texts before it merges, which llama.cpp does.", hint=_HINT)
    normalizer = described["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":  # which llama.cpp leaves out
        raise UnsupportedError(
            f"The tokenizer changes texts before it splits them ({normalizer['type']}), and llama.cpp does not.",
            hint=_HINT,
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    return {"model": "gpt2", "pre": recognized_pre_tokenizer(backend).name, "merges": merges}


def _pieces(described: Mapping[str, object], vocabulary: Mapping[str, int]) -> dict[str, object]:
    if missing := sorted(_BYTES - vocabulary.keys()):
        raise UnsupportedError(
            f"The tokenizer falls back to bytes and lacks the tokens of {len(missing)}: {missing[0]}.", hint=_HINT
        )
    return {"model": "llama", "pre": "default", "add_space_prefix": _adds_space(described)}


def _adds_space(described: Mapping[str, Any]) -> bool:
    """Return True if a text gets a space before it, by either of the two ways in which tokenizers do that."""
    normalizer, split = described["normalizer"], described["pre_tokenizer"]
    steps = [normalizer, *(normalizer or {}).get("normalizers", [])]
    prepends = any(step and step["type"] == "Prepend" for step in steps)
    return prepends or bool(split and split.get("prepend_scheme", "never") != "never")


def _tokens(
    vocabulary: Mapping[str, int],
    added: Mapping[int, Mapping[str, object]],
    num_tokens: int,
    *,
    is_pieces: bool,
    unknown: str | None,
) -> tuple[list[str], list[int]]:
    tokens, types = [f"[PAD{index}]" for index in range(num_tokens)], [UNUSED] * num_tokens
    for token, index in vocabulary.items():
        tokens[index], types[index] = token, NORMAL
        if index in added:
            types[index] = CONTROL if added[index]["special"] else USER_DEFINED
            if is_pieces and types[index] == USER_DEFINED:
                tokens[index] = token.replace(SPACE, " ")
        elif is_pieces and token in _BYTES:
            types[index] = BYTE
        if is_pieces and token == unknown:
            types[index] = UNKNOWN
    return tokens, types


def _scores(tokens: Sequence[str], merges: Sequence[Any]) -> list[float]:
    """Return sentencepiece's scores: llama.cpp merges the pair whose token has the highest one."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _special(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> dict[str, object]:
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    more = [index for index in dict.fromkeys(end_ids) if index != ids["eos"]]
    if ids["eos"] is None and more:
        ids["eos"] = more.pop(0)
    ids |= dict(zip(("eot", "eom"), more, strict=False))
    return {f"{name}_token_id": index for name, index in ids.items() if index is not None}


def _surrounding(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Return the tokens that a tokenizer puts around a text, found by giving it one."""
    bare = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_PROBE)["input_ids"]
    for adds_bos, adds_eos in itertools.product((False, True), repeat=2):
        begin = [tokenizer.bos_token_id] if adds_bos else []
        end = [tokenizer.eos_token_id] if adds_eos else []
        if whole == [*begin, *bare, *end]:
            return {"add_bos_token": adds_bos, "add_eos_token": adds_eos}
    raise UnsupportedError(
        f"The tokenizer makes {whole} of the tokens {bare}; llama.cpp adds the first and the last one of a text only.",
        hint=_HINT,
    )
