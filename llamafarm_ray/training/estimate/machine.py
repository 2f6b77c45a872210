"""The hardware that a run is estimated for: a device of the table, or the machine that asks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import UserError
from llamafarm_ray.training.estimate.setup import DeviceKind
from llamafarm_ray.training.estimate.tables import Tables

__all__ = ["Machine", "available_memory_bytes"]

_GIB = 1024**3
_SIDE = 1024
_REPEATS = 8
_CPU_UTILISATION = 0.7
"""Of a single matrix product's speed, what training reaches on a CPU; measured 0.6 to 0.8 with small Llamas."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """Devices of one kind.

    Args:
        kind: its kind, by torch's name.
        memory_bytes: memory of each.
        flops: operations a second that training reaches on each, by number format.
        price_per_hour: US dollars for each; None where unknown.
        price_note: of when the price is, and who says so.
        assumption: origin of ``flops``.
    """

    name: str
    kind: DeviceKind
    num_devices: int
    memory_bytes: int
    flops: dict[str, float]
    price_per_hour: float | None = None
    price_note: str = ""
    assumption: str = ""

    @property
    def has_bf16(self) -> bool:
        """True if it computes fast in bf16."""
        return "bf16" in self.flops

    def reached_flops(self, precision: str) -> float:
        """Operations a second in a number format; a format that it lacks runs as fp32."""
        return self.flops.get(precision, self.flops["fp32"])

    @classmethod
    def of_table(cls, device: str, num_devices: int, tables: Tables) -> Machine:
        """Devices in the tables.

        Raises:
            InputError: they don't.
        """
        known = tables.device(device)
        note = f"{known.instance}; {tables.prices.source}, as of {tables.prices.as_of}" if known.price else ""
        return cls(
            name=known.name,
            kind="cuda",
            num_devices=num_devices,
            memory_bytes=known.memory_bytes,
            flops={name: peak * 1e12 * tables.utilisation for name, peak in known.tflops.items()},
            price_per_hour=known.price,
            price_note=note,
            assumption=f"{tables.utilisation:.0%} of the data sheet's peak",
        )

    @classmethod
    def this_one(cls, num_workers: int, tables: Tables) -> Machine:
        """This machine's GPUs, or else its CPUs shared by the workers. Imports torch; takes about a second on CPUs."""
        import torch  # planning for other hardware needs no torch

        if torch.cuda.is_available():
            found = torch.cuda.get_device_properties(0)
            known = next((d for d in tables.devices.values() if d.name.lower() in found.name.lower()), None)
            flops = {"fp32": _matmul_flops("cuda", "float32")}
            low = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
            flops[low] = _matmul_flops("cuda", "bfloat16" if low == "bf16" else "float16")
            return cls(
                name=found.name,
                kind="cuda",
                num_devices=torch.cuda.device_count(),
                memory_bytes=found.total_memory,
                flops={name: speed * tables.utilisation for name, speed in flops.items()},
                price_per_hour=known.price if known else None,
                price_note=f"{tables.prices.source}, as of {tables.prices.as_of}" if known and known.price else "",
                assumption=f"{tables.utilisation:.0%} of a matrix product's speed measured here",
            )
        speed = _matmul_flops("cpu", "float32") * _CPU_UTILISATION / num_workers
        return cls(
            name="CPU of this machine",
            kind="cpu",
            num_devices=num_workers,
            memory_bytes=available_memory_bytes() // num_workers,
            flops={"fp32": speed},
            price_per_hour=0.0,
            assumption=f"{_CPU_UTILISATION:.0%} of a matrix product's speed measured here",
        )


def _matmul_flops(device: str, dtype: str) -> float:
    """Operations a second of a square matrix product, the best of a few."""
    import torch

    side = _SIDE if device == "cpu" else 8 * _SIDE
    left = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    best = 0.0
    for _ in range(_REPEATS):
        began = time.perf_counter()
        _ = left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def available_memory_bytes() -> int:
    """Memory that this process may still take: what the system has left, or its container's limit leaves.

    Raises:
        UserError: the system does not say (it is not Linux).
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        left = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration) as error:
        raise UserError(
            "This system does not say how much memory is left.", hint="Name the hardware with --gpu."
        ) from error
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        taken = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        # Pages of files count as taken, and are given back when needed.
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        left = min(left, limit - taken + int(stat.get("file", 0)))
    except (OSError, ValueError):  # no such limit
        return left
    return max(left, 0)
