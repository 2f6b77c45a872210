"""Assignment of requests to the variants of a rollout.

A caller keeps its variant in all processes, after all restarts.
"""

from __future__ import annotations

import enum
import hashlib
import random
from dataclasses import dataclass

from llamafarm_ray.registry.rollouts import StickyBy

__all__ = ["NOBODY", "Caller", "Variant", "gets_candidate", "position"]


class Variant(enum.StrEnum):
    """Variant that answers a request to an alias with a running rollout."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"
    SHADOW = "shadow"
    """Asked too; the answer was dropped."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Sender of a request, by its own account.

    Attributes:
        user: the OpenAI API's ``user``.
        session: the header ``x-llamafarm-session``.
    """

    user: str = ""
    session: str = ""

    def key(self, by: StickyBy) -> str:
        """Return the sticky key: the value that ``by`` names, else the other one; empty where there is neither."""
        user, session = (
            f"{name}:{value}" if value else "" for name, value in (("user", self.user), ("session", self.session))
        )
        return user or session if by == "user" else session or user


NOBODY = Caller()
"""Says nothing of itself: each of its requests is drawn anew."""


def position(rollout: str, key: str) -> float:
    """Return a key's position in a rollout's traffic: uniform over [0, 100), the same in all processes.

    Args:
        rollout: its id. As a salt it makes the rollouts independent: no caller is always the first to get a candidate.
    """
    digest = hashlib.sha256(f"{rollout}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def gets_candidate(rollout: str, key: str, percent: float) -> bool:
    """Return True if a request goes to the candidate.

    A caller in the first 5 percent is in the first 25 percent too, as a position does not move. Without a key each
    request is drawn anew.

    Args:
        key: the caller's; empty where it says nothing.
        percent: the candidate's share of the traffic, 0 to 100.
    """
    return (position(rollout, key) if key else random.random() * 100) < percent
