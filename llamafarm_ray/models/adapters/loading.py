"""Adapters put onto a base model by plain peft, whichever method made them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import read_adapter_config
from llamafarm_ray.models.foreign import UNREADABLE, first_line

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["add_adapter", "load_adapter"]


def load_adapter(
    model: PreTrainedModel, folder: Path, *, name: str = "default", shared: bool = False
) -> PreTrainedModel:
    """Return the base model with the adapter on it, for inference.

    Args:
        model: the adapter's base model; it is changed.
        folder: folder that a training run saved.
        shared: True if others compute with the model's tensors. They are not written then: weights of the base that an
            adapter brings (biases, embeddings) replace tensors instead of being copied into them, and initializations
            that change the base (PiSSA and others) are left out.

    Raises:
        InputError: the folder is no adapter, or none of this base model.
    """
    read_adapter_config(folder)
    # Here and not above: peft imports libraries that print, and a base model alone needs none of them.
    from peft import PeftConfig, PeftModel

    import llamafarm_ray.models.bottleneck  # noqa: F401 - makes its types known to peft

    with _misfits_refused(folder):
        config = PeftConfig.from_pretrained(str(folder))
        if shared and hasattr(config, "init_lora_weights"):
            config.init_lora_weights = False
        return PeftModel.from_pretrained(
            model,
            str(folder),
            adapter_name=name,
            config=config,
            use_safetensors=True,
            low_cpu_mem_usage=shared and not _needs_weights(config),
        )


def add_adapter(model: PreTrainedModel, folder: Path, *, name: str) -> None:
    """Put one more adapter onto a model that `load_adapter` returned.

    Args:
        model: the model; it is changed.
        folder: folder that a training run saved.
        name: name of the adapter, which no other one has.

    Raises:
        InputError: the folder is no adapter, or none of this base model.
    """
    read_adapter_config(folder)
    with _misfits_refused(folder):
        missing = model.load_adapter(str(folder), adapter_name=name, use_safetensors=True).missing_keys
    if missing:
        raise InputError(
            f"The adapter {str(folder)!r} does not fit its base model: {len(missing)} tensors are missing, such as "
            f"{missing[0]!r}.",
            hint="Check that the base model is the one it was trained on.",
        )


@contextlib.contextmanager
def _misfits_refused(folder: Path) -> Iterator[None]:
    """Refuse an adapter that peft can't load, or with missing tensors, for which peft only warns."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
            yield
    except (*UNREADABLE, UserWarning) as error:
        raise InputError(
            f"The adapter {str(folder)!r} does not fit its base model: {first_line(error)}",
            hint="Check that the base model is the one it was trained on.",
        ) from error


def _needs_weights(config: PeftConfig) -> bool:
    """Return whether peft can't put an adapter onto a model as empty tensors first."""
    return config.is_prompt_learning or bool(getattr(config, "layer_replication", None))
