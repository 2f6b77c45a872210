"""The data file: devices with their peaks and prices, typical models, and what estimates assume."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamafarm_ray.errors import InputError, did_you_mean

__all__ = ["Device", "PriceNote", "Tables", "read_tables"]

_GIB = 1024**3


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Device(_Row):
    """An accelerator.

    Attributes:
        memory_gib: its memory, in GiB.
        tflops: dense peak in 1e12 operations a second by number format; formats it lacks are absent.
        price: US dollars an hour; None if no provider lists a price.
        instance: instance of the price.
    """

    name: str
    memory_gib: float = Field(gt=0)
    tflops: dict[str, float]
    price: float | None = Field(default=None, ge=0)
    instance: str = ""

    @property
    def memory_bytes(self) -> int:
        """`memory_gib` in bytes."""
        return int(self.memory_gib * _GIB)

    @property
    def has_bf16(self) -> bool:
        """True if it computes in bf16."""
        return "bf16" in self.tflops

    def flops(self, precision: str) -> float:
        """Peak operations a second in ``fp32``, ``bf16`` or ``fp16``; bf16 is emulated in fp32 where it is missing."""
        return self.tflops.get(precision, self.tflops["fp32"]) * 1e12


class PriceNote(_Row):
    """Date and source of prices, and those of things that are no accelerator.

    Attributes:
        as_of: their date.
        source: where they are from.
        cpu_hour: US dollars for an hour of a CPU core that works without a GPU.
        gib_month: US dollars for a GiB kept for a month.
    """

    as_of: str
    source: str
    cpu_hour: float | None = Field(default=None, ge=0)
    gib_month: float | None = Field(default=None, ge=0)


class Tables(_Row):
    """Contents of the data file; its comments explain each part."""

    prices: PriceNote
    utilisation: float = Field(gt=0, le=1)
    scaling: dict[str, float]
    offload_slowdown: dict[str, float]
    devices: dict[str, Device]
    sizes: dict[str, dict[str, Any]]

    def device(self, name: str) -> Device:
        """The device of that name.

        Raises:
            InputError: there is none.
        """
        known = self.devices.get(name.strip().lower())
        if known is None:
            raise InputError(
                f"{name!r} is no device in the tables of estimates.",
                hint=f"{did_you_mean(name.lower(), self.devices)} --prices FILE adds one.",
            )
        return known

    def price_of(self, name: str) -> float | None:
        """Return the price of an hour of a device that Ray names (``CPU``, ``L4``, ``A100-80GB``); None if unknown."""
        if name == "CPU":
            return self.prices.cpu_hour
        key = name.lower()
        near = [known for known in self.devices if known in {key, f"{key}b"} or known.startswith(f"{key}-")]
        return self.devices[near[0]].price if len(near) == 1 else None


class _Prices(_Row):
    """Contents of a user's own file."""

    prices: PriceNote
    devices: dict[str, dict[str, Any]]


@functools.cache
def _packaged() -> Tables:
    text = resources.files(__package__).joinpath("devices.yaml").read_text(encoding="utf-8")
    return Tables.model_validate(yaml.safe_load(text))


def read_tables(prices: Path | None = None) -> Tables:
    """The packaged tables, with a user's prices and devices laid over them.

    Args:
        prices: a YAML or JSON file with ``prices: {as_of, source}`` and ``devices: {a100-80gb: {price: 1.89}}``.

    Raises:
        InputError: the file can't be read or says something else.
    """
    tables = _packaged()
    if prices is None:
        return tables
    try:
        given = _Prices.model_validate(yaml.safe_load(prices.read_text(encoding="utf-8")))
        # A price that a file doesn't give is unknown, not one of another provider's.
        known = {name: device.model_copy(update={"price": None, "instance": ""}) for name, device in _named(tables)}
        for name, row in given.devices.items():
            old = known[name].model_dump() if name in known else {}
            known[name] = Device.model_validate(old | row)
    except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"{str(prices)!r} is no table of prices: {' '.join(str(error).split())[:200]}",
            hint="Write `prices: {as_of: 2026-11, source: ...}` and `devices: {a100-80gb: {price: 1.89}}`.",
        ) from error
    return tables.model_copy(update={"prices": given.prices, "devices": known})


def _named(tables: Tables) -> list[tuple[str, Device]]:
    return list(tables.devices.items())
