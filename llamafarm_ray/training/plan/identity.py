"""Identity of a folder's run: the facts that decide what is learnt, and the differences of two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from llamafarm_ray.training.plan.job import RunFolder

__all__ = ["differences", "fingerprint_of", "read_facts"]


def fingerprint_of(facts: Mapping[str, object]) -> str:
    """Of everything that decides what is learnt; a run goes on from checkpoints of the same one only."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_facts(folder: RunFolder) -> dict[str, object] | None:
    """Return the facts of a folder's run; None where none can be read."""
    try:
        found: dict[str, object] = json.loads(folder.identity.read_text(encoding="utf-8"))["facts"]
    except (OSError, ValueError, KeyError):
        return None
    return found


def differences(earlier: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The dotted names of what two runs' facts differ in; empty where they are the same."""
    names = []
    for name in now:
        before, after = earlier.get(name), now[name]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            names += [f"{name}.{inner}" for inner in after if before.get(inner) != after[inner]]
        elif before != after:
            names.append(name)
    return names or ([] if earlier == now else ["its form"])
