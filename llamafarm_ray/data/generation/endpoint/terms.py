"""Terms of a server from its section of the configuration."""

from __future__ import annotations

from llamafarm_ray.config.sections.generation import Server
from llamafarm_ray.data.generation.endpoint.client import Terms
from llamafarm_ray.data.generation.endpoint.limits import Budget, Pace, Prices

__all__ = ["prices_of", "terms_of"]


def prices_of(server: Server) -> Prices:
    """Return the prices of tokens, as far as they are configured."""
    return Prices(server.input_usd_per_million_tokens, server.output_usd_per_million_tokens)


def terms_of(server: Server, base_url: str, api_key: str, section: str) -> Terms:
    """Return the state that all requests to a server share.

    Args:
        base_url: address up to ``/v1``.
        api_key: empty: none is sent.
        section: dotted name of the section, for errors.
    """
    return Terms(
        base_url=base_url,
        api_key=api_key,
        timeout_s=server.timeout_s,
        max_attempts=server.max_attempts,
        concurrency=server.concurrency,
        requests=Pace(server.requests_per_minute),
        tokens=Pace(server.tokens_per_minute),
        budget=Budget(prices_of(server), server.max_cost_usd, section),
    )
