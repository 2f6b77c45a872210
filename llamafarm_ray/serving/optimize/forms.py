"""Forms of a model that a device can serve, and the settings that are tried or written for each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llamafarm_ray.models.packed_files import PACKED_DTYPE, is_packed, why_not_packed_in_vllm
from llamafarm_ray.serving.optimize.devices import Device
from llamafarm_ray.serving.optimize.options import THREADS
from llamafarm_ray.serving.optimize.predict import Form
from llamafarm_ray.serving.optimize.speed import Option, SpeedEngine

__all__ = ["Settings", "makeable_forms", "serves", "settings_here", "settings_on"]

_BITS = {
    "cuda": {"int8": 8.1, "int4": 4.1},
    "cpu": {"gguf-q8_0": 8.5, "gguf-q4_k_m": 4.8},
    "metal": {"gguf-q8_0": 8.5, "gguf-q4_k_m": 4.8},
}
"""Schemes that are proposed where no form fits, and their bits a weight."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Settings:
    """One way of serving a form.

    Attributes:
        num_threads: CPU threads; ``None``: the engine's choice.
        dtype: the format of computation, as torch names it; ``None``: the default of `deploy`.
        concurrency: answers that are written at the same time.
        options: further options of the engine, as ``deployment.engine_kwargs`` has them.
    """

    form: Form
    engine: SpeedEngine
    num_threads: int | None
    dtype: str | None
    concurrency: int
    options: tuple[tuple[str, Option], ...] = ()

    def with_value(self, name: str, value: Option) -> Settings:
        """Return the same settings with another value of an option, or another number of threads."""
        if name == THREADS:
            return replace(self, num_threads=int(value))
        return replace(self, options=tuple(sorted({**dict(self.options), name: value}.items())))

    def deployment(self, *, max_model_len: int | None, gpu: str | int | None = None) -> dict[str, object]:
        """Return the section of a configuration.

        Args:
            max_model_len: the longest prompt with its answer; ``None``: the model's.
            gpu: the GPU that a replica gets, as ``deployment.resources.gpu`` has it; ``None``: none.
        """
        options: dict[str, object] = dict(self.options)
        if self.engine == "gguf":
            options["n_parallel"] = self.concurrency
            if self.num_threads is not None:
                options["n_threads"] = self.num_threads
        elif self.dtype is not None:
            options["dtype"] = self.dtype
        if self.engine == "vllm" and gpu is None and max_model_len is not None:
            options |= self._kv_cache(max_model_len)
        resources: dict[str, object] = {"gpu": gpu} if gpu is not None and self.engine != "gguf" else {}
        if self.num_threads is not None:
            resources["cpu"] = self.num_threads
        section: dict[str, object] = {"engine": self.engine}
        if max_model_len is not None:
            section["max_model_len"] = max_model_len
        return section | {
            name: value for name, value in (("resources", resources), ("engine_kwargs", options)) if value
        }

    def _kv_cache(self, max_model_len: int) -> dict[str, object]:
        """Return the memory for keys and values, where all answers together need more than vLLM's default on a CPU."""
        sixteenths = 2 if self.dtype == "float32" else 1
        needed = sixteenths * self.form.token_bytes * max_model_len * self.concurrency
        return {"kv_cache_memory_bytes": math.ceil(needed / _GIB) * _GIB} if needed > _GIB else {}


def settings_here(
    form: Form, folder: Path, *, cores: int, has_gpu: bool, has_bf16: bool, concurrency: int, engines: frozenset[str]
) -> Iterator[Settings]:
    """Yield each engine and precision that is worth a trial on this machine, the fastest of the usual case first.

    Args:
        has_gpu: True if engines compute on a GPU.
        has_bf16: True if the processor multiplies in bf16.
        concurrency: answers that are written at the same time.
    """
    threads = None if has_gpu else cores
    if form.is_gguf:
        if "gguf" in engines:
            yield Settings(form, "gguf", threads, None, concurrency)
        return
    dtypes = [None] if has_gpu else [*(["bfloat16"] if has_bf16 else []), "float32"]
    if "vllm" in engines and not why_not_packed_in_vllm(folder, on_gpu=has_gpu):
        in_vllm = [PACKED_DTYPE] if is_packed(folder) and not has_gpu else dtypes
        yield from (Settings(form, "vllm", threads, dtype, concurrency) for dtype in in_vllm)
    yield from (Settings(form, "transformers", threads, dtype, concurrency) for dtype in dtypes)


def settings_on(form: Form, device: Device, concurrency: int, *, has_small_cache: bool = False) -> Settings:
    """Return the settings that are written for a device that is not here.

    Args:
        concurrency: answers that are written at the same time.
        has_small_cache: True if keys and values have 8 bits.
    """
    threads = device.cores or None
    if form.is_gguf:
        cache: tuple[tuple[str, Option], ...] = (("cache_type", "q8_0"),) if has_small_cache else ()
        return Settings(form, "gguf", threads, None, concurrency, (*cache, ("flash_attention", True)))
    cache = (("kv_cache_dtype", "fp8"),) if has_small_cache else ()
    if device.kind != "cpu":
        return Settings(form, "vllm", None, device.dtype, concurrency, cache)
    return Settings(form, "vllm", threads, PACKED_DTYPE if form.scheme else device.dtype, concurrency, cache)


def serves(device: Device, form: Form, folder: Path | None) -> bool:
    """Return True if an engine serves a form on a device with its weights as they are.

    Args:
        folder: its files, where they are on this machine.
    """
    if device.kind == "metal":
        return form.is_gguf  # llama.cpp is the one engine for Apple's chips
    if form.is_gguf:
        return device.kind == "cpu"  # its wheel computes on CPUs
    return folder is None or not why_not_packed_in_vllm(folder, on_gpu=device.kind == "cuda")


def makeable_forms(device: Device, plain: Form) -> list[Form]:
    """Return forms that `quantize` would make of an unquantized one for a device, the most bits first."""
    return [
        Form("", scheme, scheme.startswith("gguf-"), plain.num_parameters, size, plain.token_bytes, 0.0)
        for scheme, bits in _BITS[device.kind].items()
        if (size := int(plain.num_parameters * bits / 8))
    ]
