"""``adapter_config.json``: read, with the types of its values checked.

The keys are peft's (https://huggingface.co/docs/peft/package_reference/lora#peft.LoraConfig). Keys that are not listed
here are left to peft.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError

__all__ = ["VECTORS", "WEIGHTS", "AdapterConfig", "read_adapter_config"]

WEIGHTS = "adapter_model.safetensors"
"""The file that peft and vLLM read an adapter's weights from."""

VECTORS = "FEATURE_EXTRACTION"
"""The ``task_type`` of adapters whose base is taken without its output head, for vectors."""

_CONFIG = "adapter_config.json"
_HINT = "Export the adapter again with peft's save_pretrained."
_LORA_TYPES = {"LORA", "HYBRID_LORA_ADAPTER"}
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The values of an ``adapter_config.json`` that decide on an adapter's tensors and their scale.

    Attributes:
        peft_type: the method, as peft spells it.
        r: LoRA's rank where no pattern says otherwise; 0 for other methods.
        lora_alpha: numerator of LoRA's scale where no pattern says otherwise.
        rank_pattern: ranks by regular expressions over module names.
        alpha_pattern: likewise numerators.
        use_rslora: True if the scale is ``lora_alpha / sqrt(r)`` instead of ``lora_alpha / r``.
    """

    values: Mapping[str, Any]
    peft_type: str
    r: int = 0
    lora_alpha: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    @property
    def is_lora(self) -> bool:
        """True if the adapter has low-rank updates."""
        return self.peft_type in _LORA_TYPES

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's update, by peft's rule for patterns."""
        return int(_matched(self.rank_pattern, module) or self.r)

    def scale_of(self, module: str) -> float:
        """Return the factor of ``B x A`` for a module.

        For a scale beyond the range of a float, this is infinity.
        """
        rank = self.rank_of(module)
        alpha = _matched(self.alpha_pattern, module)
        numerator = self.lora_alpha if alpha is None else alpha
        return numerator / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read an adapter's configuration.

    Raises:
        InputError: the folder is no adapter, its weights are not in `WEIGHTS`, or a value is of a wrong type.
    """
    path = folder / _CONFIG
    if not path.is_file() or not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{str(folder)!r} is not an adapter: adapter_config.json and safetensors are needed.",
            hint="Give the output folder of a training run.",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{_CONFIG} can't be read as JSON: {error}.", hint=_HINT) from None
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise InputError(f"{_CONFIG} names no peft_type.", hint=_HINT)
    if not (folder / WEIGHTS).is_file():
        found = ", ".join(sorted(one.name for one in folder.glob("*.safetensors")))
        raise InputError(f"The adapter has no {WEIGHTS}; it has {found}.", hint=f"Save its weights as {WEIGHTS}.")
    peft_type = values["peft_type"]
    _number("adapter_scale", values.get("adapter_scale", 1.0))
    _check_names(values)
    return _lora(values, peft_type) if peft_type in _LORA_TYPES else AdapterConfig(values, peft_type)


def _check_names(values: Mapping[str, object]) -> None:
    """Check the keys that name modules, which most methods have."""
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        if not _is_names(values.get(key), or_pattern=key != "modules_to_save"):
            raise _wrong(key, values[key], "a list of module names")
        if isinstance(pattern := values.get(key), str):
            _check_pattern(key, pattern)


def _lora(values: Mapping[str, object], peft_type: str) -> AdapterConfig:
    for key in ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"):
        if type(values.get(key) or False) is not bool:
            raise _wrong(key, values[key], "true or false")
    if values.get("bias", "none") not in {"none", "all", "lora_only"}:
        raise _wrong("bias", values["bias"], "none, all or lora_only")
    if values.get("lora_alpha", 8) == 0:
        raise InputError(f"{_CONFIG}: lora_alpha is 0, so the adapter would change nothing.", hint=_HINT)
    return AdapterConfig(
        values,
        peft_type,
        r=_rank("r", values.get("r", 8)),
        lora_alpha=_number("lora_alpha", values.get("lora_alpha", 8)),
        rank_pattern={key: _rank(f"rank_pattern.{key}", rank) for key, rank in _patterns(values, "rank_pattern")},
        alpha_pattern={key: _number(f"alpha_pattern.{key}", one) for key, one in _patterns(values, "alpha_pattern")},
        use_rslora=bool(values.get("use_rslora")),
    )


def _rank(key: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise _wrong(key, value, "an integer of 1 or more")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise _wrong(key, value, "a number")


def _patterns(values: Mapping[str, object], key: str) -> list[tuple[str, object]]:
    patterns = values.get(key) or {}
    if not isinstance(patterns, dict):
        raise _wrong(key, patterns, "an object")
    for pattern in patterns:
        _check_pattern(f"a key of {key}", pattern)
    return list(patterns.items())


def _check_pattern(key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise _wrong(key, pattern, "a regular expression") from None


def _is_names(value: object, *, or_pattern: bool) -> bool:
    if value is None or (or_pattern and isinstance(value, str)):
        return True
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _matched(patterns: Mapping[str, object], module: str) -> Any:
    """Return the value of the first pattern that is a module's name or the end of it; ``None`` if there is none."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return None


def _wrong(key: str, value: object, wanted: str) -> InputError:
    return InputError(f"{_CONFIG}: {key} is {repr(value)[:_SHOWN]}; it must be {wanted}.", hint=_HINT)
