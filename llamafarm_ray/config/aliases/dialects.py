"""Configurations of other tools whose defaults, or names that we have too, mean something else there.

Such a configuration is told by keys that one tool alone has. Values that it leaves to that tool's defaults must be
given here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from llamafarm_ray.config.aliases.alias import Undecided
from llamafarm_ray.config.aliases.placing import Given
from llamafarm_ray.config.layout import Path
from llamafarm_ray.config.wording import dotted, shown

__all__ = ["DIALECTS", "misunderstandings"]

_METHOD: Path = ("fine_tuning", "method")


@dataclass(frozen=True, slots=True)
class _Dialect:
    """A tool's way to write a configuration.

    Attributes:
        signs: keys at the top of a file that no other tool has.
        method: its default, as our method.
        totals: keys at the top of a file that mean another amount there than here, and what to set instead.
    """

    tool: str
    signs: frozenset[str]
    method: str
    totals: Mapping[str, str] = field(default_factory=dict)


DIALECTS = (
    _Dialect(
        "Axolotl",
        frozenset({"micro_batch_size", "sequence_len"}),
        "full",
        {
            "batch_size": "is the batch of all workers and accumulation steps in Axolotl, and a worker's here; "
            "set micro_batch_size and gradient_accumulation_steps instead"
        },
    ),
    _Dialect("LLaMA-Factory", frozenset({"cutoff_len"}), "lora"),
)


def misunderstandings(values: Mapping[Path, Given]) -> Iterator[tuple[Path, str]]:
    """Yield values that mean something else here than in their origin: the canonical key, and a line of explanation.

    Args:
        values: given values by canonical path.
    """
    written = {given.key: path for path, given in values.items()}
    for path, given in values.items():
        if isinstance(given.value, Undecided):
            yield path, f"{given.key}: is {shown(given.written)}, which {given.value.reason}."
    for dialect in DIALECTS:
        found = sorted(dialect.signs & written.keys())
        if not found:
            continue
        if _METHOD not in values:
            meant = f"is {dialect.tool}'s, where leaving out the method means {dialect.method}; here it means auto"
            yield _METHOD, f"{found[0]}: {meant}. Set {dotted(_METHOD)} to {dialect.method}, or to another one."
        for key, reason in dialect.totals.items():
            if key in written:
                yield written[key], f"{key}: {reason}."
