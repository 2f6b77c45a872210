"""From tokens to text while an answer is being written: whole letters only, and nothing beyond a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Detokenizer"]

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_CONTEXT_TOKENS = 6
"""Prompt tokens that are decoded together with the first token: some tokenizers write a space or none by it."""


class Detokenizer:
    """Tokens in, pieces of text out.

    A letter can take several tokens, so a piece is held back until its last one is there; and the beginning of a
    stop text is held back until it is known to be none. (Decoding between two offsets is how vLLM and
    text-generation-inference do it: a token's text can depend on the one before it.)

    Args:
        prompt: the token ids that come before.
        stop: texts that end the answer; they are no part of it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-_CONTEXT_TOKENS:])
        self._start = 0
        self._read = len(self._tokens)
        self._stop = tuple(stop)
        self._held = ""
        self.is_stopped = False
        """True if a stop text came; nothing follows it."""

    def add(self, token_id: int) -> str:
        """Take a token; the text that is certain by now and was not given yet."""
        self._tokens.append(token_id)
        before = self._decode(self._tokens[self._start : self._read])
        text = self._decode(self._tokens[self._start :])
        if len(text) <= len(before) or text.endswith(_UNFINISHED):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._until_stop(text[len(before) :])

    def finish(self) -> str:
        """Return the held-back text at the answer's end; bytes that are no letter are dropped."""
        held, self._held = self._held, ""
        return held

    def _until_stop(self, piece: str) -> str:
        text = self._held + piece
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the number of the text's last characters that a stop text may begin with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
