"""Answers by the digest of their whole request, one file each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from llamafarm_ray.storage import Location

__all__ = ["Answer", "AnswerCache", "request_key"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer.

    Args:
        finish_reason: OpenAI's; ``length`` if it was cut at the limit of tokens.
    """

    content: str
    finish_reason: str
    input_tokens: int
    output_tokens: int


def request_key(base_url: str, request: Mapping[str, object]) -> str:
    """Return the digest of everything that decides an answer: server, model, messages and settings."""
    said = json.dumps([base_url, request], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(said.encode()).hexdigest()


class AnswerCache:
    """Good answers, kept for good; failures never get here. A file that is damaged counts as missing.

    Args:
        uri: folder, anywhere fsspec reaches.
    """

    def __init__(self, uri: str) -> None:
        self._folder = Location(uri)

    def get(self, key: str) -> Answer | None:
        """Return the answer to a request that was asked before."""
        try:
            return Answer(**json.loads(self._folder.read(_name(key))))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Store an answer, whole or not at all."""
        self._folder.write(_name(key), json.dumps(asdict(answer)).encode())


def _name(key: str) -> str:
    return f"{key[:2]}/{key}.json"
