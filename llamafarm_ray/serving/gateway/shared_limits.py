"""Limits of keys over all replicas: consumption at one replica is charged at the others too.

Every replica with limits tells the application's controller once a second what keys took since the last time, and hears
what they took elsewhere. No request waits for that, so for a second or two a key can get at each replica what it has
left; that is charged afterwards. Each charge is reported once: an exchange that fails loses a charge and never adds
one, and while there is no controller each replica counts for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from llamafarm_ray.serving.gateway.limits import Accounts, Taken

__all__ = ["Ledger", "Told", "keep_shared"]

logger = logging.getLogger(__name__)

_TELL_S = 1.0
_GONE_S = 5.0
"""Nothing is kept for a replica that told nothing for so long."""

Told = Mapping[str, Taken]
"""Consumption by key."""


@dataclass(slots=True)
class _Replica:
    """Consumption reported by others that a replica has not received yet."""

    asked_at: float
    requests: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Passes on among the replicas of one application what they tell.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}

    def exchange(self, name: str, told: Told) -> Told:
        """Take in what keys took at a replica, and tell it what they took at all others since it asked last.

        Args:
            name: of the replica; no other one will ever have it. One that was not heard of for a while starts anew.
            told: its consumption by key.
        """
        now = self._clock()
        self._replicas = {known: one for known, one in self._replicas.items() if now - one.asked_at < _GONE_S}
        asking = self._replicas.pop(name, _Replica(now))
        for other in self._replicas.values():
            other.requests.update({key: taken.num_requests for key, taken in told.items()})
            other.tokens.update({key: taken.num_tokens for key, taken in told.items()})
        self._replicas[name] = _Replica(now)
        return {
            key: Taken(asking.requests[key], asking.tokens[key])
            for key in asking.requests.keys() | asking.tokens.keys()
        }


async def keep_shared(
    accounts: Accounts, exchange: Callable[[str, Told], Awaitable[Told | None]], every_s: float = _TELL_S
) -> None:
    """Go on telling what keys took here, and charging them for what they took elsewhere.

    Args:
        exchange: the ledger's; ``None`` where nobody answers.
        every_s: seconds between.
    """
    name = uuid.uuid4().hex
    while True:
        try:
            accounts.hear(await exchange(name, accounts.tell()) or {})
        except Exception:  # a loop of this process: there is nobody to tell but the log
            logger.exception("Limits could not be shared with other replicas.")
        await asyncio.sleep(every_s)
