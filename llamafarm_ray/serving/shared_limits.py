"""What a key takes at one replica is charged at the others: its limits hold for all of them together.

Every replica with limits tells the application's controller once a second what keys took since the last time, and hears
what they took elsewhere. No request waits for that, so for a second or two a key can get at each replica what it has
left; that is charged afterwards. What is told is told once: an exchange that fails is a charge less, never one too
many, and while there is no controller each replica counts for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from llamafarm_ray.serving.limits import Accounts, Taken

__all__ = ["Ledger", "Told", "keep_shared"]

logger = logging.getLogger(__name__)

_TELL_S = 1.0
_GONE_S = 5.0
"""A replica that told nothing for so long is gone, and what it had under way has ended."""
_MISSED = 3
"""So many exchanges must fail before what others had under way is taken to have ended."""

Told = Mapping[str, Taken]
"""What each key took."""


@dataclass(slots=True)
class _Replica:
    """What the ledger knows of a replica: what others told that it has not heard, and what it has under way."""

    heard_at: float
    requests: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    running: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Passes on among the replicas of one application what they tell.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}
        self._running: Counter[str] = Counter()

    def exchange(self, name: str, told: Told) -> Told:
        """Take in what keys took at a replica, and tell it what they took at all others since it asked last.

        Args:
            name: of the replica; no other one will ever have it. One that was not heard of for a while starts anew.
            told: what it tells.
        """
        now = self._clock()
        for gone in [known for known, replica in self._replicas.items() if now - replica.heard_at >= _GONE_S]:
            self._running.subtract(self._replicas.pop(gone).running)
        asking = self._replicas.setdefault(name, _Replica(now))
        asking.heard_at = now
        self._running.subtract(asking.running)
        asking.running = {key: taken.num_running for key, taken in told.items() if taken.num_running}
        elsewhere = +self._running
        self._running.update(asking.running)
        self._running = +self._running
        for other in self._replicas.values():
            if other is not asking:
                other.requests.update({key: taken.num_requests for key, taken in told.items() if taken.num_requests})
                other.tokens.update({key: taken.num_tokens for key, taken in told.items() if taken.num_tokens})
        requests, asking.requests = asking.requests, Counter()
        tokens, asking.tokens = asking.tokens, Counter()
        return {
            key: Taken(requests[key], tokens[key], elsewhere[key])
            for key in requests.keys() | tokens.keys() | elsewhere.keys()
        }


async def keep_shared(
    accounts: Accounts, exchange: Callable[[str, Told], Awaitable[Told | None]], every_s: float = _TELL_S
) -> None:
    """Go on telling what keys took here, and charging them for what they took elsewhere.

    Args:
        accounts: of this replica.
        exchange: the ledger's; ``None`` where nobody answers.
        every_s: seconds between.
    """
    name, missed = uuid.uuid4().hex, 0
    while True:
        try:
            others = await exchange(name, accounts.tell())
            missed = 0 if others is not None else missed + 1
            if others is not None:
                accounts.hear(others)
            elif missed == _MISSED:
                accounts.hear_nothing()
        except Exception:  # a loop of this process: there is nobody to tell but the log
            logger.exception("Limits could not be shared with other replicas.")
        await asyncio.sleep(every_s)
