"""Limits of each key: requests and tokens a minute, requests at the same time.

The accounts live in the process of a replica, and no request waits for another process. Consumption of a key at other
replicas is charged here too, as soon as they report it (:mod:`.shared_limits`). Each replica counts only its own
requests under way: those that others had a second ago may have ended, and counting them would refuse a client that
keeps to the limit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.http.errors import LimitError

__all__ = ["Account", "Accounts", "Taken", "TokenBucket"]

_PER_MINUTE = 60.0


class TokenBucket:
    """A balance that fills steadily up to a minute's worth. It can be overdrawn, and then has to fill up again first.

    The token bucket of https://www.rfc-editor.org/rfc/rfc2697, with the debt of one whose costs are known afterwards.

    Args:
        per_minute: amount added a minute, and the most it holds.
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

    def is_full(self) -> bool:
        """True if the bucket holds a minute's worth."""
        self._fill()
        return self._balance >= self._capacity

    def _fill(self) -> None:
        now = self._clock()
        self._balance = min(self._capacity, self._balance + (now - self._at) * self._per_s)
        self._at = now


@dataclass(frozen=True, slots=True)
class Taken:
    """Requests and tokens that a key took at some replicas since the last report."""

    num_requests: int = 0
    num_tokens: int = 0


@dataclass(slots=True)
class Account:
    """Account of one key: its remaining limits.

    Attributes:
        requests: remaining requests of the minute; ``None``: no limit.
        tokens: likewise.
        num_running: its requests under way at this replica.
        untold: consumption here that no other replica knows of.
    """

    requests: TokenBucket | None
    tokens: TokenBucket | None
    num_running: int = 0
    untold: Taken = Taken()

    def begin(self) -> None:
        """Charge for a request that begins."""
        self.charge(1, 0)
        self.num_running += 1
        self.untold = replace(self.untold, num_requests=self.untold.num_requests + 1)

    def settle(self, num_tokens: int) -> None:
        """Charge for the tokens that a request took, prompt and answer."""
        self.charge(0, num_tokens)
        self.untold = replace(self.untold, num_tokens=self.untold.num_tokens + num_tokens)

    def end(self) -> None:
        """A request has ended."""
        self.num_running -= 1

    def charge(self, num_requests: int, num_tokens: int) -> None:
        """Take from the remaining budget."""
        if self.requests is not None:
            self.requests.take(num_requests)
        if self.tokens is not None:
            self.tokens.take(num_tokens)

    def is_fresh(self) -> bool:
        """True if a new account would be the same."""
        buckets = [bucket for bucket in (self.requests, self.tokens) if bucket is not None]
        return (self.num_running, self.untold) == (0, Taken()) and all(bucket.is_full() for bucket in buckets)


class Accounts:
    """The accounts of all keys at one replica.

    Args:
        limits: limits of each key.
        clock: seconds, never going back.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    @property
    def are_shared(self) -> bool:
        """True if any limit holds over all replicas together."""
        return self._limits.requests_per_minute is not None or self._limits.tokens_per_minute is not None

    @contextlib.contextmanager
    def admitted(self, key: str) -> Iterator[Account]:
        """The time of one request: it counts as one when it begins.

        Args:
            key: the caller's name. Names are the registry's principals, so there are only so many.

        Raises:
            LimitError: one of the key's limits is reached; it says when to ask again.
        """
        account = self._account(key)
        self._check(account)
        account.begin()
        try:
            yield account
        finally:
            account.end()

    def tell(self) -> dict[str, Taken]:
        """Return each key's consumption here since the last call.

        A report is made once: if it is lost, nothing is charged.
        """
        told = {}
        for key, account in list(self._accounts.items()):
            if account.is_fresh():
                del self._accounts[key]
                continue
            if account.untold != Taken():
                told[key], account.untold = account.untold, Taken()
        return told

    def hear(self, others: Mapping[str, Taken]) -> None:
        """Charge for what keys took at all other replicas since the last time."""
        for key, taken in others.items():
            self._account(key).charge(taken.num_requests, taken.num_tokens)

    def _account(self, key: str) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(
                self._bucket(self._limits.requests_per_minute), self._bucket(self._limits.tokens_per_minute)
            )
        return account

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
