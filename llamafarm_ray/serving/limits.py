"""How much each key may ask for: requests and tokens a minute, requests at the same time.

The accounts live in the process of a replica, as Envoy's local rate limits do
(https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/local_rate_limit_filter): nothing is asked
over a network, and with N replicas a key can get N times as much.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.refusals import LimitError

__all__ = ["Account", "Accounts", "TokenBucket"]

_PER_MINUTE = 60.0


class TokenBucket:
    """A balance that fills steadily up to a minute's worth. It can be overdrawn, and then has to fill up again first.

    The token bucket of https://www.rfc-editor.org/rfc/rfc2697, with the debt of one whose costs are known afterwards.

    Args:
        per_minute: what comes in, and the most it holds.
        clock: seconds, never going back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._capacity = max(1.0, per_minute)
        self._per_s = per_minute / _PER_MINUTE
        self._clock = clock
        self._balance = self._capacity
        self._at = clock()

    def wait_s(self, least: float) -> float:
        """Seconds until at least ``least`` is in it; 0 if it is now."""
        self._fill()
        return max(0.0, (min(least, self._capacity) - self._balance) / self._per_s)

    def take(self, amount: float) -> None:
        """Take ``amount`` out, into debt if need be."""
        self._fill()
        self._balance -= amount

    def _fill(self) -> None:
        now = self._clock()
        self._balance = min(self._capacity, self._balance + (now - self._at) * self._per_s)
        self._at = now


@dataclass(slots=True)
class Account:
    """What one key has left."""

    requests: TokenBucket | None
    tokens: TokenBucket | None
    num_running: int = 0

    def settle(self, num_tokens: int) -> None:
        """Charge for the tokens that a request took, prompt and answer."""
        if self.tokens is not None:
            self.tokens.take(num_tokens)


class Accounts:
    """The accounts of all keys at one replica.

    Args:
        limits: what each key may.
        clock: seconds, never going back.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    @contextlib.contextmanager
    def admitted(self, key: str) -> Iterator[Account]:
        """The time of one request: it counts as one when it begins.

        Args:
            key: the caller's name. Names are the registry's principals, so there are only so many.

        Raises:
            LimitError: one of the key's limits is reached; it says when to ask again.
        """
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(
                self._bucket(self._limits.requests_per_minute), self._bucket(self._limits.tokens_per_minute)
            )
        self._check(account)
        if account.requests is not None:
            account.requests.take(1.0)
        account.num_running += 1
        try:
            yield account
        finally:
            account.num_running -= 1

    def _bucket(self, per_minute: float | None) -> TokenBucket | None:
        return TokenBucket(per_minute, self._clock) if per_minute is not None else None

    def _check(self, account: Account) -> None:
        limits = self._limits
        if limits.concurrent_requests is not None and account.num_running >= limits.concurrent_requests:
            raise LimitError(
                f"The key has {account.num_running} requests under way, and may have {limits.concurrent_requests}.",
                retry_after_s=1.0,
                hint="Wait for one to end.",
            )
        if account.requests is not None and (wait_s := account.requests.wait_s(1.0)) > 0:
            raise LimitError(
                f"The key may send {limits.requests_per_minute:g} requests a minute, and has.",
                retry_after_s=wait_s,
                hint=f"Ask again in {wait_s:.1f} s.",
            )
        if account.tokens is not None and (wait_s := account.tokens.wait_s(1.0)) > 0:
            raise LimitError(
                f"The key may use {limits.tokens_per_minute:g} tokens a minute, and has.",
                retry_after_s=wait_s,
                hint=f"Ask again in {wait_s:.1f} s.",
            )
