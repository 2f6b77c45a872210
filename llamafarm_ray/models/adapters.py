"""Adapters as folders on disk: put onto a base model by plain peft, whichever method made them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.foreign import UNREADABLE, first_line

__all__ = ["adapter_type", "load_adapter", "read_adapter_config"]


def read_adapter_config(folder: Path) -> Mapping[str, Any]:
    """What ``adapter_config.json`` says.

    Raises:
        InputError: the folder is no adapter, or its weights are not safetensors.
    """
    path = folder / "adapter_config.json"
    if not path.is_file() or not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{str(folder)!r} is not an adapter: adapter_config.json and safetensors are needed.",
            hint="Give the output folder of a training run.",
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}.", hint="Train or download it again.") from None
    if not isinstance(value, dict) or not isinstance(value.get("peft_type"), str):
        raise InputError(f"{path} names no peft_type.", hint="Train or download it again.")
    return value


def adapter_type(folder: Path) -> str:
    """The adapter's type as peft spells it: ``LORA``, ``BOTTLENECK``, ``PREFIX_TUNING``, ``HYBRID_LORA_ADAPTER``.

    Raises:
        InputError: the folder is no adapter.
    """
    return str(read_adapter_config(folder)["peft_type"])


def load_adapter(model: Any, folder: Path, *, name: str = "default") -> Any:
    """The base model with the adapter on it, for inference.

    Args:
        model: the adapter's base model; it is changed.
        folder: what a training run saved.
        name: what the adapter shall be called.

    Raises:
        InputError: the folder is no adapter, or none of this base model.
    """
    read_adapter_config(folder)
    # Here and not above: peft imports libraries that print, and a base model alone needs none of them.
    from peft import PeftModel  # noqa: PLC0415

    import llamafarm_ray.models.bottleneck  # noqa: F401, PLC0415 - makes its types known to peft

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
            return PeftModel.from_pretrained(model, str(folder), adapter_name=name, use_safetensors=True)
    except (*UNREADABLE, UserWarning) as error:
        raise InputError(
            f"The adapter {str(folder)!r} does not fit its base model: {first_line(error)}",
            hint="Check that the base model is the one it was trained on.",
        ) from error
