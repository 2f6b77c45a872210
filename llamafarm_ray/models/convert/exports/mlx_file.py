"""A model in the format of Apple's MLX: safetensors with MLX's names, and ``quantization`` in config.json."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert.exports.libraries import check_libraries
from llamafarm_ray.models.foreign import first_line

__all__ = ["MlxModel", "check_has_mlx", "write_mlx_model"]

_LIBRARIES = ("mlx", "mlx_lm")
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_BITS = {"int8": 8, "int4": 4}
_UNROUNDED = "bf16"
"""Precision of tensors that are not quantized, and of the scales of those that are."""
_GROUP = 64
_INNER = ("model", "transformer")
"""Names of the part of a model that is before its head."""


def check_has_mlx() -> None:
    """Check that MLX and its language models are installed.

    Raises:
        UnsupportedError: one is missing.
    """
    check_libraries(_LIBRARIES, target="MLX", extra="mlx")


def write_mlx_model(source: Path, folder: Path, precision: str) -> None:
    """Write a model's weights and config.json.

    Args:
        source: a folder in transformers' layout, with unquantized weights.
        folder: an existing folder.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``int8`` or ``int4`` for integers in groups of 64.

    Raises:
        UnsupportedError: MLX has no such model; the message has its reason.
    """
    from mlx_lm.utils import quantize_model, save_config, save_model

    model, config = _loaded(source)
    dtype = _DTYPES[_UNROUNDED if precision in _BITS else precision]
    _cast(model, dtype)
    config["dtype"] = dtype
    if precision in _BITS:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the number of bits
            model, config = quantize_model(model, config, _GROUP, _BITS[precision])
    save_model(folder, model)
    save_config(config, folder / "config.json")


def _loaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    from mlx_lm.utils import load_model

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model, config = load_model(folder, lazy=True, model_config=_older_names(config))
    except Exception as error:  # its errors have no class in common
        raise UnsupportedError(
            f"MLX can't read the model: {first_line(error)}", hint="Convert it to gguf instead."
        ) from error
    return model, config


def _older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration lacks of the names before transformers 5, which MLX's models read."""
    rope = config.get("rope_parameters") or {}
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    kind = full.get("rope_type", "default")
    scaled = {**full, "type": kind} if kind != "default" else None
    older = {
        "rope_theta": full.get("rope_theta"),
        "rope_scaling": scaled,
        "rope_local_base_freq": local.get("rope_theta"),
        "partial_rotary_factor": full.get("partial_rotary_factor"),
        "rotary_pct": full.get("partial_rotary_factor"),
        "rotary_emb_base": full.get("rope_theta"),
        "num_experts": config.get("num_local_experts"),
        "n_ctx": config.get("n_positions"),
    }
    return {name: value for name, value in older.items() if value is not None and config.get(name) is None}


def _cast(model: Any, dtype: str) -> None:
    """Cast weights in floating point, but for those that the model keeps as they are."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    is_cast = getattr(model, "cast_predicate", lambda _: True)

    def cast(name: str, value: Any) -> Any:
        return value.astype(getattr(mx, dtype)) if is_cast(name) and mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map_with_path(cast, model.parameters()))


class MlxModel:
    """A model in MLX's runtime.

    Args:
        folder: a folder that `write_mlx_model` wrote.

    Raises:
        UnsupportedError: MLX can't load it.
    """

    def __init__(self, folder: Path) -> None:
        self._model, _ = _loaded(folder)

    def logits(self, parts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits of a text that is computed part by part, each on the keys and values of those before it.

        Raises:
            InputError: MLX can't compute the model.
        """
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self._model)
        try:
            return torch.cat([_tensor(self._model(mx.array([list(part)]), cache=cache)) for part in parts])
        except Exception as error:  # its errors have no class in common
            raise InputError(
                f"MLX can't compute the model: {first_line(error)}", hint="Convert it to gguf instead."
            ) from error

    def layer_outputs(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """Return the outputs of each layer; that of the last one behind the norm, as transformers gives it."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        inner = next(getattr(self._model, name) for name in _INNER if hasattr(self._model, name))
        found: list[Any] = []
        with _recorded({type(layer) for layer in self._model.layers}, found):
            last = inner(mx.array([list(tokens)]), cache=make_prompt_cache(self._model))
        return [_tensor(one) for one in [*found[:-1], last]]


@contextlib.contextmanager
def _recorded(kinds: Iterable[Any], found: list[Any]) -> Iterator[None]:
    """Keep what layers of some classes return, for the time of a block."""

    def recording(call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(self: Any, *arguments: Any, **options: Any) -> Any:
            output = call(self, *arguments, **options)
            found.append(output[0] if isinstance(output, tuple) else output)
            return output

        return recorded

    calls = {kind: kind.__call__ for kind in kinds}
    for kind, call in calls.items():
        kind.__call__ = recording(call)
    try:
        yield
    finally:
        for kind, call in calls.items():
            kind.__call__ = call


def _tensor(value: Any) -> torch.Tensor:
    """Return a batch of one text as a tensor in 32 bits."""
    import mlx.core as mx

    return torch.from_numpy(np.array(value[0].astype(mx.float32)))
