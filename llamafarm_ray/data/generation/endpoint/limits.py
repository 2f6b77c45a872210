"""Limits for asking an endpoint: requests and tokens a minute, and money."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamafarm_ray.errors import InputError

__all__ = ["Budget", "Pace", "Prices", "num_tokens_estimated"]

_SECONDS = 60.0
_BYTES_PER_TOKEN = 4
_MILLION = 1_000_000


def num_tokens_estimated(text: str) -> int:
    """Return about how many tokens a text has, without the model's tokenizer: one for four bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


@dataclass
class Pace:
    """An even pace: each unit takes its share of a minute, and the next caller waits until it is over.

    Args:
        per_minute: units a minute; None: no limit.
    """

    per_minute: float | None
    _free_at: float = 0.0

    def reserve(self, now: float, units: float) -> float:
        """Take ``units`` and return the time in seconds to wait before they may be used."""
        if self.per_minute is None:
            return 0.0
        start = max(now, self._free_at)
        self._free_at = start + units * _SECONDS / self.per_minute
        return start - now


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in US dollars for a million tokens; None: unknown."""

    input_usd: float | None = None
    output_usd: float | None = None

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return the price of a request in US dollars; None if a price is unknown."""
        if self.input_usd is None or self.output_usd is None:
            return None
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / _MILLION


@dataclass
class Budget:
    """Money spent and reserved.

    A request reserves the most that it can cost before it is sent, so that the limit holds whatever is answered.

    Args:
        max_cost_usd: the limit; None: no limit.
    """

    prices: Prices
    max_cost_usd: float | None
    section: str = "dataset.preprocessing.qa_generation.endpoint"
    spent_usd: float = 0.0
    _reserved_usd: float = field(default=0.0)

    def reserve(self, input_tokens: int, max_output_tokens: int, *, price_factor: float = 1.0) -> float:
        """Reserve the most that a request can cost and return it.

        Args:
            price_factor: its price in parts of the usual one.

        Raises:
            InputError: the limit could be passed.
        """
        cost = (self.prices.cost(input_tokens, max_output_tokens) or 0.0) * price_factor
        if self.max_cost_usd is not None and self.spent_usd + self._reserved_usd + cost > self.max_cost_usd:
            raise InputError(
                f"The next request could take the cost above max_cost_usd, {self.max_cost_usd} US dollars; "
                f"{self.spent_usd:.4f} are spent.",
                hint=f"Raise {self.section}.max_cost_usd and run it again: answers that have arrived are kept.",
            )
        self._reserved_usd += cost
        return cost

    def settle(self, reserved: float, input_tokens: int, output_tokens: int, *, price_factor: float = 1.0) -> None:
        """Replace a reservation by the request's cost; nothing for one that failed."""
        self._reserved_usd -= reserved
        self.spent_usd += (self.prices.cost(input_tokens, output_tokens) or 0.0) * price_factor
