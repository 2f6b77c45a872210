"""Requests for chat completions, and the changes a server may ask for in their form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Dialect", "chat_request"]


def chat_request(
    model: str,
    messages: Sequence[dict[str, str]],
    *,
    temperature: float,
    max_output_tokens: int,
    answer_format: Mapping[str, object],
) -> dict[str, object]:
    """Return a request in OpenAI's form, as it is stored and digested.

    Args:
        answer_format: form of the answer, see `response_format`.
    """
    return {
        "model": model,
        "messages": list(messages),
        "temperature": temperature,
        "max_tokens": max_output_tokens,
        "response_format": dict(answer_format),
    }


@dataclass
class Dialect:
    """The form of requests that a server takes, learnt from its answers of status 400.

    Some servers don't support JSON schemas, and OpenAI's reasoning models take neither ``max_tokens`` nor a
    temperature. Each change is made once and kept.
    """

    changes: set[str] = field(default_factory=set)

    def adapt(self, request: Mapping[str, object]) -> dict[str, object]:
        """Return the request in the server's form."""
        adapted = dict(request)
        if "plain JSON" in self.changes:
            del adapted["response_format"]
        if "max_completion_tokens" in self.changes:
            adapted["max_completion_tokens"] = adapted.pop("max_tokens")
        if "no temperature" in self.changes:
            del adapted["temperature"]
        return adapted

    def learn(self, sent: Mapping[str, object], complaint: str) -> bool:
        """Change the form after a complaint of the server; return False if it names nothing that can be changed.

        Args:
            sent: the request as it was sent; another one may have been refused for the same since.
            complaint: the body of the answer.
        """
        said = complaint.lower()
        if "response_format" in sent and any(word in said for word in ("response_format", "json_schema", "schema")):
            self.changes.add("plain JSON")
        elif "max_tokens" in sent and "max_completion_tokens" in said:
            self.changes.add("max_completion_tokens")
        elif "temperature" in sent and "temperature" in said:
            self.changes.add("no temperature")
        else:
            return False
        return True
