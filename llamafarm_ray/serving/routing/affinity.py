"""Affinity of replicas to names: mostly the same replica answers for a name, so that each adapter is loaded once.

Each name ranks the replicas by rendezvous hashing (Thaler & Ravishankar, "Using name-based mappings to increase hit
rates", IEEE/ACM Transactions on Networking 6(1), 1998): where a replica comes or goes, only the names move that it gets
or had. The first of a name's ranking is its home.

By homes alone a popular name would be too much for its replica. So a name has as many of its ranking as its share of
the recent requests asks for, and of these the one that got the fewest gets the next. With that popular names level what
the rest leaves uneven, as in Nasir et al., "When two choices are not enough" (ICDE 2016), which gives names more
choices from a share of 1/(5 n) on. Uneven load, such as eight names of which six have one home, is bounded as in
Mirrokni, Thorup & Zadimoghaddam, "Consistent hashing with bounded loads" (SODA 2018): where all of a name's replicas
got too much, it goes on along its ranking.

Recent is counted in requests and not in seconds. So chance makes as little of a difference at one request a second as
at a thousand, and a name that was cold (after a swap all requests have another) is spread once its home got some more
than its part, however fast they come.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Affinity"]

_WINDOW = 32
"""Recent requests for each replica: after that many more a request counts for 1/e of itself. With a shorter window
chance makes names popular; with a longer one a popular name stays alone at its home for longer."""
_SPREAD = 3.0
"""A name gets a replica for each ``1 / _SPREAD`` of one replica's even share that it has. So beyond their homes all
names together are on ``_SPREAD`` times as many replicas as there are: each holds about so many adapters more."""
_BOUND = 1.25
"""Greatest share of a replica, relative to the mean of all."""
_SLACK = 4.0
"""And so many requests more: while there were few, chance makes one replica's twice another's, and it does no harm."""
_MAX_NAMES = 4096
"""Names that are remembered. The least recently asked for goes: its next request is like its first."""


@dataclass(slots=True)
class _Asked:
    """A name: its ranking of the replicas, and how many of its requests were recent when it was asked for last."""

    ranking: Sequence[str] = ()
    num_recent: float = 0.0
    last: int = 0


class Affinity:
    """Picks replicas by the requested name, from its own picks alone."""

    def __init__(self) -> None:
        self._replicas: list[str] = []
        self._loads: dict[str, float] = {}
        """Recent requests by replica."""
        self._names: OrderedDict[str, _Asked] = OrderedDict()
        self._num_picks = 0
        self._num_recent = 0.0
        self._left = 1.0
        """Weight of a request after one more request."""

    def pick(self, name: str, replicas: list[str]) -> str:
        """The replica for one more request.

        Args:
            name: engine name that it asks for; empty if any replica answers as well.
            replicas: the ids of those that run, at least one. An id is a replica's own for as long as it runs.
        """
        if replicas != self._replicas:
            self._follow(replicas)
        self._age()
        ranking, num_choices = self._choices(name) if name else (self._replicas, len(replicas))
        picked = min(ranking[:num_choices], key=self._loads.__getitem__)
        bound = _BOUND * sum(self._loads.values()) / len(replicas) + _SLACK
        if self._loads[picked] > bound:
            picked = next(replica for replica in ranking if self._loads[replica] <= bound)
        self._loads[picked] += 1
        return picked

    def _follow(self, replicas: list[str]) -> None:
        """Know these replicas and no others. A new one is taken to be as busy as the others, so as not to get all."""
        known = [load for replica, load in self._loads.items() if replica in replicas]
        mean = sum(known) / len(known) if known else 0.0
        self._loads = {replica: self._loads.get(replica, mean) for replica in replicas}
        self._replicas = list(replicas)
        self._left = 1 - 1 / (_WINDOW * len(replicas))
        for asked in self._names.values():
            asked.ranking = ()

    def _age(self) -> None:
        """Count one more request."""
        self._num_picks += 1
        self._num_recent = self._num_recent * self._left + 1
        for replica in self._loads:
            self._loads[replica] *= self._left

    def _choices(self, name: str) -> tuple[Sequence[str], int]:
        """A name's ranking, and how many of it the name has now."""
        asked = self._names.get(name)
        if asked is None:
            asked = self._names[name] = _Asked()
            if len(self._names) > _MAX_NAMES:
                self._names.popitem(last=False)
        else:
            self._names.move_to_end(name)
        if not asked.ranking:
            asked.ranking = sorted(self._replicas, key=lambda replica: _weight(name, replica))
        asked.num_recent = asked.num_recent * self._left ** (self._num_picks - asked.last) + 1
        asked.last = self._num_picks
        share = asked.num_recent / self._num_recent
        # A few requests need no more replicas than they are, whatever their share: one alone goes to its home.
        return asked.ranking, min(math.ceil(_SPREAD * len(self._replicas) * share), round(asked.num_recent))


def _weight(name: str, replica: str) -> bytes:
    """Return the rendezvous-hash weight of a replica for a name, the same in each process."""
    return hashlib.blake2b(f"{name}\n{replica}".encode(), digest_size=8).digest()
