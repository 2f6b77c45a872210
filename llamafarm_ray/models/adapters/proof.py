"""The proof that an adapter fits its base model, from their files: nothing is loaded.

Each tensor of the adapter has a module of the base, and each module that its configuration claims has its tensors, in
the shapes that the base and the configured rank make. Weights are finite numbers, and no update can overflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import WEIGHTS, AdapterConfig, read_adapter_config
from llamafarm_ray.models.adapters.headers import Expected, Shape, expected_of_headers, read_base_config
from llamafarm_ray.models.adapters.magnitudes import WEIGHT_DTYPES, check_magnitudes
from llamafarm_ray.models.adapters.needs import check_served, why_not_vllm
from llamafarm_ray.models.adapters.peft_tensors import expected_of_peft
from llamafarm_ray.models.adapters.renaming import Renaming, find_renaming
from llamafarm_ray.models.adapters.tokens import check_tokens
from llamafarm_ray.storage.formats.safetensors import TensorEntry, read_tensors

__all__ = ["MisnamedError", "Proof", "check_adapter", "prove_adapter"]

_SHOWN = 3
_WRONG_BASE = "Check that the base model is the one it was trained on."


class MisnamedError(InputError):
    """An adapter's tensors would fit under other names.

    Args:
        hint: next step.
        renaming: renaming that makes the names fit.
    """

    def __init__(self, message: str, *, hint: str, renaming: Renaming) -> None:
        super().__init__(message, hint=hint)
        self.renaming = renaming


@dataclass(frozen=True, slots=True)
class Proof:
    """The facts of an adapter that was proved against its base.

    Attributes:
        not_for_vllm: the feature that vLLM can't serve; empty if there is none.
    """

    num_tensors: int
    not_for_vllm: str


def check_adapter(adapter: Path) -> tuple[AdapterConfig, Mapping[str, TensorEntry]]:
    """Check the part of an adapter that needs no base: its configuration, and the header of its weights.

    Raises:
        InputError: it is no adapter, no engine serves it, or it has no weights that are floating point numbers.
    """
    config = read_adapter_config(adapter)
    check_served(config)
    tensors = {tensor.name: tensor for tensor in read_tensors(adapter / WEIGHTS, shown=WEIGHTS)}
    if not tensors:
        raise InputError(f"{WEIGHTS} has no tensors.", hint="Save the adapter's weights again.")
    for name, tensor in tensors.items():
        if 0 in tensor.shape:
            raise InputError(
                f"The tensor {name!r} is empty: its shape is {tensor.shape}.", hint="Save the adapter's weights again."
            )
        if tensor.dtype not in WEIGHT_DTYPES:
            raise InputError(
                f"The tensor {name!r} has the dtype {tensor.dtype}; an adapter's weights are "
                f"{', '.join(WEIGHT_DTYPES)}.",
                hint="Save the adapter unquantised.",
            )
    return config, tensors


def prove_adapter(adapter: Path, base: Path, *, dtype: str | None = None) -> Proof:
    """Prove that an adapter fits a base model.

    Messages name tensors and files, and no folder: clients of a server may read them.

    Args:
        dtype: the dtype that it is served in, as torch names it; by default the base's own.

    Raises:
        MisnamedError: it would fit under other names, which is told.
        InputError: it does not fit; the message names the first tensors that don't.
        OSError: a file can't be read.
    """
    config, tensors = check_adapter(adapter)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    _check_tensors(shapes, base, adapter, config)
    check_tokens(adapter, base)
    check_magnitudes(adapter / WEIGHTS, tensors, config, dtype or _dtype_of(base))
    return Proof(len(tensors), why_not_vllm(config) or _whole_embeddings(shapes))


def _check_tensors(shapes: Mapping[str, Shape], base: Path, adapter: Path, config: AdapterConfig) -> None:
    expected = expected_of_headers(base, config)
    misfit = _misfit(shapes, expected) if expected is not None else None
    if expected is None:
        expected = expected_of_peft(base, adapter)
        misfit = _misfit(shapes, expected)
    elif misfit and not expected.is_certain:
        with contextlib.suppress(InputError):  # an architecture that transformers doesn't know: headers tell all
            expected = expected_of_peft(base, adapter)
            misfit = _misfit(shapes, expected)
    if misfit is None:
        return
    renaming = find_renaming(shapes, expected)
    if renaming is None:
        raise InputError(f"The adapter does not fit its base model: {misfit}.", hint=_WRONG_BASE)
    raise MisnamedError(
        f"The adapter does not fit its base model: {misfit}.",
        hint=f"It fits once {renaming.words}: register it with --fix-names.",
        renaming=renaming,
    )


def _misfit(shapes: Mapping[str, Shape], expected: Expected) -> str | None:
    """Return what does not fit, as the end of a sentence."""
    known = {**expected.allowed, **expected.required}
    if strange := [name for name in shapes if name not in known]:
        return f"{len(strange)} of its {len(shapes)} tensors are of no module of the base: {_first(strange)}"
    if missing := [name for name in expected.required if name not in shapes]:
        return f"{len(missing)} tensors are missing that its adapter_config.json claims: {_first(missing)}"
    wrong = [name for name, shape in shapes.items() if shape != known[name]]
    if wrong:
        told = [f"{name!r} has the shape {shapes[name]} and should have {known[name]}" for name in wrong[:_SHOWN]]
        return f"{len(wrong)} of its {len(shapes)} tensors have wrong shapes: {'; '.join(told)}"
    return None


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(repr(name) for name in listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")


def _whole_embeddings(shapes: Mapping[str, Shape]) -> str:
    """Return that an adapter brings whole embeddings, if it does; those of a `base_layer` are the base's own."""
    for name in shapes:
        if name.endswith((".embed_tokens.weight", ".lm_head.weight", ".wte.weight")):
            return f"whole embeddings of its own ({name})"
    return ""


def _dtype_of(base: Path) -> str:
    said = read_base_config(base)
    return str(said.get("dtype") or said.get("torch_dtype") or "float32")
