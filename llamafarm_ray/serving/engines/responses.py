"""Answers in OpenAI's shape (https://platform.openai.com/docs/api-reference), log-probabilities as vLLM gives them."""

from __future__ import annotations

import base64
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llamafarm_ray.serving.engines.base import FinishReason, ScoredToken

__all__ = ["ChatShape", "Choice", "CompletionShape", "Piece", "Shape", "embeddings", "usage"]

_LEAST_LOGPROB = -9999.0
"""Stand-in for minus infinity, which JSON has no number for; vLLM's value."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer.

    Attributes:
        text: added text; may be empty.
        tokens: the tokens that it was made of, a prompt's too where that is told.
        finish_reason: reason for the answer's end; ``None``: it goes on.
    """

    text: str
    tokens: tuple[ScoredToken, ...]
    finish_reason: FinishReason | None
    num_tokens: int


@dataclass(slots=True)
class Choice:
    """An answer, as far as it is written.

    Attributes:
        index: its number among the request's answers.
        finish_reason: reason for its end.
        is_told: True if a stream has sent it.
        offset: number of characters of the tokens already streamed.
    """

    index: int
    text: str = ""
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_tokens: int = 0
    is_told: bool = False
    offset: int = 0

    def add(self, piece: Piece) -> None:
        """Take in its next piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason = piece.finish_reason
        self.num_tokens += piece.num_tokens


class Shape(ABC):
    """Shape of a route's answers.

    Args:
        request_id: of the request, without the route's prefix.
        logprobs: True if the response has log-probabilities.
    """

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, tokenizer: Any, request_id: str, model: str, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._id = f"{self.prefix}-{request_id}"
        self._model = model
        self._created = int(time.time())
        self.tells_logprobs = logprobs

    def whole(self, choices: Sequence[Choice], num_prompt: int) -> dict[str, object]:
        """The response to a request without ``stream``."""
        told = [
            {
                "index": choice.index,
                **self._said(choice.text),
                "logprobs": self._logprobs(choice.tokens, 0) if self.tells_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ]
        return {**self._envelope(self.whole_object, told), "usage": usage(num_prompt, choices)}

    def chunk(self, choice: Choice, piece: Piece) -> dict[str, object]:
        """The event for a piece."""
        logprobs = None
        if self.tells_logprobs:
            logprobs = self._logprobs(piece.tokens, choice.offset)
            choice.offset += sum(len(self._text_of(token.token_id)) for token in piece.tokens)
        one = {
            "index": choice.index,
            **self._added(piece.text, is_first=not choice.is_told),
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }
        choice.is_told = True
        return self._envelope(self.chunk_object, [one])

    def closing(self, choices: Sequence[Choice], num_prompt: int) -> dict[str, object]:
        """The event with the usage, which comes last."""
        return {**self._envelope(self.chunk_object, []), "usage": usage(num_prompt, choices)}

    def _envelope(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    @abstractmethod
    def _said(self, text: str) -> dict[str, object]:
        """The field with a whole answer."""

    @abstractmethod
    def _added(self, text: str, *, is_first: bool) -> dict[str, object]:
        """The field with a piece of one."""

    @abstractmethod
    def _logprobs(self, tokens: Sequence[ScoredToken], offset: int) -> dict[str, object]:
        """The tokens with their log-probabilities, after ``offset`` characters of others."""

    def _text_of(self, token_id: int) -> str:
        text: str = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        return text


class CompletionShape(Shape):
    """``/v1/completions``."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _said(self, text: str) -> dict[str, object]:
        return {"text": text}

    def _added(self, text: str, *, is_first: bool) -> dict[str, object]:
        del is_first
        return {"text": text}

    def _logprobs(self, tokens: Sequence[ScoredToken], offset: int) -> dict[str, object]:
        told: dict[str, list[object]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for token in tokens:
            text = self._text_of(token.token_id)
            told["text_offset"].append(offset)
            told["tokens"].append(text)
            offset += len(text)
            if token.logprob is None:  # a prompt's first token
                told["token_logprobs"].append(None)
                told["top_logprobs"].append(None)
                continue
            told["token_logprobs"].append(_finite(token.logprob))
            top = {self._text_of(other): _finite(logprob) for other, logprob in token.top}
            told["top_logprobs"].append({text: _finite(token.logprob)} | top)
        return {**told}


class ChatShape(Shape):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _said(self, text: str) -> dict[str, object]:
        return {"message": {"role": "assistant", "content": text}}

    def _added(self, text: str, *, is_first: bool) -> dict[str, object]:
        return {"delta": {"role": "assistant", "content": text} if is_first else {"content": text}}

    def _logprobs(self, tokens: Sequence[ScoredToken], offset: int) -> dict[str, object]:
        del offset
        return {
            "content": [
                {
                    **self._scored(token.token_id, token.logprob or 0.0),
                    "top_logprobs": [self._scored(*other) for other in token.top],
                }
                for token in tokens
            ]
        }

    def _scored(self, token_id: int, logprob: float) -> dict[str, object]:
        text = self._text_of(token_id)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}


def usage(num_prompt: int, choices: Sequence[Choice]) -> dict[str, int]:
    """Return the token counts of a request."""
    num_completion = sum(choice.num_tokens for choice in choices)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
    }


def embeddings(
    model: str, vectors: Sequence[Sequence[float]], num_prompt: int, *, as_base64: bool
) -> dict[str, object]:
    """The answer of ``/v1/embeddings``; in base64 a vector is its numbers as little-endian 32-bit floats."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    used = {"prompt_tokens": num_prompt, "total_tokens": num_prompt}
    return {"object": "list", "data": data, "model": model, "usage": used}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)
