"""A running endpoint, as a benchmark's backend."""

from __future__ import annotations

from pathlib import Path

from llamafarm_ray.evaluation.benchmarks.backends.completions import EndpointEngine
from llamafarm_ray.evaluation.benchmarks.backends.served import Endpoint
from llamafarm_ray.evaluation.benchmarks.backends.token_lm import TokenAnswerer
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries

__all__ = ["open_endpoint"]


def open_endpoint(endpoint: Endpoint, tokenizer: Path, max_length: int) -> TokenAnswerer:
    """Return an `Answerer` that asks an endpoint.

    Args:
        endpoint: the server.
        tokenizer: folder with the model's tokenizer.
        max_length: the most tokens that the model reads.
    """
    quiet_libraries()
    return TokenAnswerer(EndpointEngine(endpoint, load_tokenizer(tokenizer), max_length))
