"""Fewest tokens that a text can have, by its characters alone: long texts are refused before they are tokenized.

A token stands for at most as many characters as the longest one of its vocabulary. That holds for tokenizers that keep
every character: byte-pair encoding that can spell any byte, after a normalizer that drops nothing. For all others
(WordPiece and Unigram may have one token for a text of any length) no bound is known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["TokenBound", "token_bound"]

_MOST_COMPOSED = 4
"""Characters that one of a Unicode normal form may stand for: https://www.unicode.org/faq/normalization#12"""
_Form = Literal["NFC", "NFKC"]


@dataclass(frozen=True, slots=True)
class TokenBound:
    """Lower bound on a text's number of tokens.

    Attributes:
        max_chars: characters of the longest token.
        forms: Unicode normal forms that the tokenizer brings a text into; they may have fewer characters.
        skips_space: True if whitespace beside some tokens is dropped.
    """

    max_chars: int
    forms: tuple[_Form, ...] = ()
    skips_space: bool = False

    def least(self, text: str) -> int:
        """Return the fewest tokens that a text can have."""
        if len(text) <= self.max_chars:
            return 0
        num_chars = sum(map(len, text.split())) if self.skips_space else len(text)
        if self.forms and not text.isascii():  # to normalize it takes quadratic time where marks follow one another
            num_chars //= _MOST_COMPOSED
        return -(-num_chars // self.max_chars)


def token_bound(tokenizer: Any) -> TokenBound | None:
    """Return the bound of a tokenizer; None where none is known.

    Args:
        tokenizer: as transformers has them, or one with a ``token_bound`` of its own.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers  # slow, and a gateway alone does without it

    own = getattr(tokenizer, "token_bound", None)
    if isinstance(own, TokenBound):
        return own
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer) or not isinstance(inner.model, models.BPE):
        return None
    forms = _forms(_settings(inner.normalizer))
    splits = _flat(_settings(inner.pre_tokenizer), "pretokenizers")
    if forms is None or not all(map(_keeps_text, splits)):
        return None
    words = inner.get_vocab(with_added_tokens=True)
    if any(split["type"] == "ByteLevel" for split in splits):
        spells_all = all(letter in words for letter in pre_tokenizers.ByteLevel.alphabet())
    else:
        spells_all = inner.model.byte_fallback and all(f"<0x{byte:02X}>" in words for byte in range(256))
    if not spells_all:
        return None
    added = inner.get_added_tokens_decoder().values()
    return TokenBound(max(map(len, words)), forms, skips_space=any(token.lstrip or token.rstrip for token in added))


def _settings(component: Any) -> dict[str, Any] | None:
    """Return the settings of a part of a tokenizer, as its file has them."""
    return None if component is None else dict(json.loads(component.__getstate__()))


def _flat(settings: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return a sequence's parts, a single part, or nothing."""
    if settings is None:
        return []
    if settings["type"] != "Sequence":
        return [settings]
    return [part for inner in settings[name] for part in _flat(inner, name)]


def _keeps_text(split: dict[str, Any]) -> bool:
    """Return True for a pre-tokenizer that divides a text and leaves nothing of it out."""
    if split["type"] in {"Split", "Punctuation"}:
        return bool(split["behavior"] != "Removed")
    return split["type"] in {"ByteLevel", "Digits", "Metaspace"}


def _forms(settings: dict[str, Any] | None) -> tuple[_Form, ...] | None:
    """Return the normal forms of a normalizer; None where it may shorten a text in other ways."""
    forms: list[_Form] = []
    for step in _flat(settings, "normalizers"):
        match step:
            case {"type": "NFC" | "NFKC" as form}:
                forms.append(form)
            case {"type": "Prepend" | "Lowercase" | "NFD" | "NFKD" | "ByteLevel"}:
                pass
            case {"type": "Replace", "pattern": {"String": old}, "content": new} if len(new) >= len(old):
                pass
            case _:
                return None
    return tuple(forms)
