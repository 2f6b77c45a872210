"""The table of devices that serving is predicted for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["THIS_MACHINE", "Device", "DeviceTable", "find_device", "read_devices"]

THIS_MACHINE = "this-machine"
"""The target on which trials are measured."""

DeviceKind = Literal["cuda", "cpu", "metal"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device.

    Attributes:
        kind: kind of processor that computes.
        memory_gib: memory for weights, keys and values.
        bandwidth_gbs: of that memory, in 10^9 bytes a second.
        tflops: dense peak of matrix products.
        dtype: the format that engines compute in.
        gpu: Ray's name of a GPU; empty for others.
        cores: of a CPU; 0 where they don't matter.
        has_small_cache: True if engines keep keys and values of 8 bits there.
    """

    name: str
    kind: DeviceKind
    memory_gib: float
    bandwidth_gbs: float
    tflops: float
    dtype: str
    gpu: str = ""
    cores: int = 0
    has_small_cache: bool = True


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """Devices by target, and the shares of their peaks that engines are assumed to reach."""

    devices: dict[str, Device]
    bandwidth_share: float
    compute_share: float


@cache
def read_devices() -> DeviceTable:
    """Return the table of the package."""
    said = yaml.safe_load((files(__package__) / "devices.yaml").read_text(encoding="utf-8"))
    devices = {target: Device(**facts) for target, facts in said["devices"].items()}
    return DeviceTable(devices, said["bandwidth_share"], said["compute_share"])


def find_device(target: str) -> Device:
    """Return a device of the table.

    Raises:
        InputError: there is none of that name.
    """
    known = read_devices().devices
    if target not in known:
        hint = did_you_mean(target, [THIS_MACHINE, *known]) or f"Use {THIS_MACHINE}, {', '.join(known)}."
        raise InputError(f"There is no device {target!r} in the table.", hint=hint)
    return known[target]
