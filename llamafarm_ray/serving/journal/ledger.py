"""The part of a replica in the registry's ledger: tokens of models, and the seconds of devices that served them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from llamafarm_ray.registry.references import namespace_of
from llamafarm_ray.registry.usage import CPU, GPU, Amounts, LedgerRow, WorkKey
from llamafarm_ray.serving.journal.usage import UsageKey, Used
from llamafarm_ray.serving.telemetry.token_usage import COMPLETION_WEIGHT

__all__ = ["Devices", "device_shares", "ledger_rows"]


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices of a replica.

    Args:
        gpu_type: type of the GPUs, where the configuration names it.
    """

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    gpu_type: str = ""

    @property
    def name(self) -> str:
        """The device that its time is counted in."""
        return (self.gpu_type or GPU) if self.num_gpus else CPU


def device_shares(rows: Mapping[UsageKey, Used]) -> dict[UsageKey, float]:
    """Return each row's share of a replica's work, a token of an answer counted as two of a prompt."""
    weights = {key: used.prompt_tokens + COMPLETION_WEIGHT * used.answer_tokens for key, used in rows.items()}
    total = sum(weights.values())
    return {key: weight / total if total else 1 / len(weights) for key, weight in weights.items()}


def ledger_rows(rows: Mapping[UsageKey, Used], devices: Devices, seconds: float, application: str) -> list[LedgerRow]:
    """Return the rows of a replica's day.

    Args:
        seconds: seconds that it ran on that day.
        application: name of the Serve application; idle time is counted under it.
    """
    device_s = seconds * (devices.num_gpus or devices.num_cpus)
    if not rows:
        return [(WorkKey("", application, "idle", devices.name), Amounts(device_s))]
    shares = device_shares(rows)
    total: dict[WorkKey, Amounts] = defaultdict(Amounts)
    for key, used in rows.items():
        name = key.ref.partition(":")[0].rpartition("/")[2]
        work = WorkKey(namespace_of(key.ref), name, "serve", devices.name)
        total[work].take_in(Amounts(shares[key] * device_s, used.num_tokens))
    return list(total.items())
