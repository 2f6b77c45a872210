"""Which variant a request gets. The same caller gets the same one, in every process and after every restart."""

from __future__ import annotations

import enum
import hashlib
import random
from dataclasses import dataclass

from llamafarm_ray.registry.rollouts import StickyBy

__all__ = ["NOBODY", "Caller", "Variant", "gets_candidate", "position"]


class Variant(enum.StrEnum):
    """What answered a request to an alias with a rollout under way."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"
    SHADOW = "shadow"
    """Asked too; nobody saw the answer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as far as it says.

    Attributes:
        user: the OpenAI API's ``user``.
        session: the header ``x-llamafarm-session``.
    """

    user: str = ""
    session: str = ""

    def key(self, by: StickyBy) -> str:
        """What the variant sticks to: what ``by`` names, else the other one; empty where there is neither."""
        user, session = (
            f"{name}:{value}" if value else "" for name, value in (("user", self.user), ("session", self.session))
        )
        return user or session if by == "user" else session or user


NOBODY = Caller()
"""Says nothing of itself: each of its requests is drawn anew."""


def position(rollout: str, key: str) -> float:
    """Where a key stands in a rollout's traffic: evenly spread over [0, 100), the same wherever it is computed.

    Args:
        rollout: its id. As a salt it makes the rollouts independent: nobody is always the first to try what is new.
        key: the caller's.
    """
    digest = hashlib.sha256(f"{rollout}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def gets_candidate(rollout: str, key: str, percent: float) -> bool:
    """Whether a request gets the candidate.

    Who does at 5 percent does at 25 percent too, as a position does not move. Without a key each request is drawn anew.

    Args:
        rollout: the rollout's id.
        key: the caller's; empty where it says nothing.
        percent: the candidate's share of the traffic, 0 to 100.
    """
    return (position(rollout, key) if key else random.random() * 100) < percent
