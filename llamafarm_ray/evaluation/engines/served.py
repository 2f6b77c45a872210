"""The address of a served model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Endpoint"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and the model to ask there.

    Args:
        base_url: address up to ``/v1``.
        version: the version that has to answer, as ``name:1.2.0``; empty where it is not known.
        api_key_env: environment variable that holds the key.
        concurrency: most requests at once.
        timeout_s: longest wait for one answer.
        max_attempts: attempts of a request that fails for a while.
    """

    base_url: str
    model: str
    version: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout_s: float = 120.0
    max_attempts: int = 5
