"""Quotas of tokens by namespace: those of today, counted here and, from the registry's ledger, at all other replicas.

Other replicas write what they served every ten seconds, and it is read here every fifteen; no request waits for that.
So a namespace can get half a minute of requests beyond its quota, and none that was begun is cut off.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.registry.usage import read_ledger
from llamafarm_ray.serving.http.errors import LimitError
from llamafarm_ray.storage import Location

__all__ = ["TokenQuotas"]

logger = logging.getLogger("ray.serve.llamafarm")

_READ_S: Final = 15.0
_DAY_S: Final = 86400.0


class TokenQuotas:
    """Tokens that the namespaces used today, against their quotas.

    Args:
        state: gives the registry's state as of now.
        writer: this replica's name in the ledger; its own pages are not counted again.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        state: Callable[[], RegistryState],
        home: Location,
        writer: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._home = home
        self._writer = writer
        self._clock = clock
        self._day = self._today()
        self._here: Counter[str] = Counter()
        self._elsewhere: Counter[str] = Counter()
        self._trouble = ""

    def check(self, ref: str) -> None:
        """Check that a version's namespace has tokens left today.

        Raises:
            LimitError: it has none; it says when the next day begins.
        """
        namespace = namespace_of(ref)
        limit = self._state().quota(namespace).tokens_per_day
        if limit is None:
            return
        self._turn_day()
        used = self._here[namespace] + self._elsewhere[namespace]
        if used >= limit:
            wait_s = _DAY_S - self._clock() % _DAY_S
            where = f"Namespace {namespace!r}" if namespace else "The namespace without a name"
            raise LimitError(
                f"{where} may use {limit:,} tokens a day, and has used {used:,}.",
                retry_after_s=wait_s,
                hint=f"Ask again in {wait_s / 3600:.1f} hours, at midnight UTC, or ask an admin for more: "
                "llamafarm registry quota set.",
            )

    def count(self, ref: str, num_tokens: int) -> None:
        """Count the tokens of a request."""
        self._turn_day()
        self._here[namespace_of(ref)] += num_tokens

    async def keep(self) -> None:
        """Read what other replicas served, now and every fifteen seconds for ever, while there are quotas."""
        while True:
            if any(quota.tokens_per_day is not None for quota in self._state().quotas.values()):
                await self.read()
            await asyncio.sleep(_READ_S)

    async def read(self) -> None:
        """Read the tokens that other replicas served today; if that fails, the earlier numbers stand."""
        day = self._today()
        try:
            found = await asyncio.to_thread(read_ledger, self._home, day, day, leave_out=self._writer)
        except LlamaFarmError as error:
            if self._trouble != str(error):  # once, not every time
                logger.warning("Tokens of other replicas could not be read: %s", error)
            self._trouble = str(error)
            return
        self._trouble = ""
        self._turn_day()
        if day == self._day:
            self._elsewhere = Counter()
            for key, used in found.items():
                self._elsewhere[key.namespace] += used.num_tokens

    def _turn_day(self) -> None:
        today = self._today()
        if today != self._day:
            self._day, self._here, self._elsewhere = today, Counter(), Counter()

    def _today(self) -> dt.date:
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC).date()
