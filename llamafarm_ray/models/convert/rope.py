"""Rotary positions: scaled frequencies as transformers' ``rope_parameters`` and as GGUF's facts and tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llamafarm_ray.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["ROPE_TENSORS", "rope_facts", "rope_parameters"]

Floats = NDArray[np.float32]

_FREQS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = frozenset({_FREQS, _LONG, _SHORT})
"""Names of the tensors that hold factors of frequencies, and belong to no layer."""

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The values of all Llama 3 models; a file has the factors that follow from them."""

_CLOSE = 1e-3

_PARTIAL = frozenset({"stablelm", "phi2", "gptneox"})
"""Families of which transformers turns a part of each head unless it is told the share."""


def rope_facts(config: PreTrainedConfig) -> tuple[dict[str, object], dict[str, Floats]]:
    """Return the facts (without their architecture's prefix) and the tensors of a configuration's rotary positions.

    Raises:
        UnsupportedError: they are scaled in a way that the format has no facts for.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return {}, {}
    if "full_attention" in parameters:
        return _of_two_kinds(parameters)
    dims = int(_head_dim(config) * parameters.get("partial_rotary_factor", 1.0))
    facts: dict[str, object] = {"rope.freq_base": float(parameters["rope_theta"]), "rope.dimension_count": dims}
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return facts, {}
    if kind == "llama3":
        return facts, {_FREQS: _llama3_factors(parameters, dims)}
    if kind in {"linear", "yarn"}:
        return facts | _scaled(parameters, kind), {}
    if kind == "longrope":
        return _long_facts(config, parameters, facts)
    raise UnsupportedError(
        f"Rotary positions of type {kind!r} can't be written to GGUF.", hint="Serve the model with vLLM instead."
    )


def rope_parameters(
    facts: Callable[[str], Any], tensors: Mapping[str, Floats], head_dim: int, architecture: str
) -> dict[str, Any]:
    """Return ``rope_parameters`` (and attributes beside them) of a GGUF file, as arguments of a configuration.

    Args:
        facts: gives a fact of the architecture; ``None`` if there is none.
        tensors: those of `ROPE_TENSORS` that the file has.
        architecture: GGUF's name of the family.

    Raises:
        UnsupportedError: they are scaled in a way that is not known here.
    """
    theta = float(facts("rope.freq_base") or 10000.0)
    found: dict[str, object] = {"rope_theta": theta, "rope_type": "default"}
    kind, factor = facts("rope.scaling.type"), facts("rope.scaling.factor")
    if architecture == "gemma3":
        full = found | ({"rope_type": "linear", "factor": float(factor)} if factor and factor != 1 else {})
        local = float(facts("rope.freq_base_swa") or 10000.0)
        return {
            "rope_parameters": {
                "full_attention": full,
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            }
        }
    dims = facts("rope.dimension_count") or head_dim
    if dims != head_dim or architecture in _PARTIAL:
        found["partial_rotary_factor"] = dims / head_dim
    if _FREQS in tensors:
        found |= _llama3_of(tensors[_FREQS], theta, dims)
    elif _LONG in tensors:
        return _long_parameters(facts, tensors, found)
    elif kind in {"linear", "yarn"}:
        found |= {"rope_type": kind, "factor": float(factor)}
        if kind == "yarn":
            found["original_max_position_embeddings"] = facts("rope.scaling.original_context_length")
    elif kind not in {None, "none"}:
        raise UnsupportedError(
            f"The file scales rotary positions by {str(kind)[:40]!r}, which is not read.",
            hint="Serve it with engine gguf.",
        )
    return {"rope_parameters": found}


def _head_dim(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _of_two_kinds(parameters: Mapping[str, Any]) -> tuple[dict[str, object], dict[str, Floats]]:
    """Return the facts of Gemma 3, whose local layers have a base of their own."""
    full, local = parameters["full_attention"], parameters["sliding_attention"]
    facts = {"rope.freq_base": float(full["rope_theta"])}
    if local.get("rope_type", "default") != "default" or float(local["rope_theta"]) != 10000.0:
        raise UnsupportedError(
            f"The local layers' rotary positions are {dict(local)}; llama.cpp has a base of 10000 for them.",
            hint="Serve the model with vLLM instead.",
        )
    kind = full.get("rope_type", "default")
    if kind not in {"default", "linear"}:
        raise UnsupportedError(f"Rotary positions of type {kind!r} can't be written to GGUF.")
    return facts | (_scaled(full, kind) if kind == "linear" else {}), {}


def _scaled(parameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    facts = {"rope.scaling.type": kind, "rope.scaling.factor": float(parameters["factor"])}
    if kind == "linear":
        return facts
    odd = {"beta_fast": 32, "beta_slow": 1, "attention_factor": None, "mscale": None, "mscale_all_dim": None}
    for name, usual in odd.items():
        if parameters.get(name, usual) not in {usual, None}:
            raise UnsupportedError(f"YaRN with {name} {parameters[name]!r} can't be written to GGUF.")
    if "original_max_position_embeddings" not in parameters:
        raise InputError(
            "rope_parameters are of type yarn and lack original_max_position_embeddings.",
            hint="Add it to the model's config.json.",
        )
    return facts | {"rope.scaling.original_context_length": int(parameters["original_max_position_embeddings"])}


def _llama3_factors(parameters: Mapping[str, Any], dims: int) -> Floats:
    """Return by how much each frequency is divided: https://github.com/meta-llama/llama-models, ``apply_scaling``."""
    base, factor = float(parameters["rope_theta"]), float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    old_length = float(parameters["original_max_position_embeddings"])
    wavelengths = 2 * math.pi * base ** (np.arange(0, dims, 2, dtype=np.float64) / dims)
    smooth = (old_length / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelengths < old_length / high, 1.0, np.where(wavelengths > old_length / low, factor, between))
    return factors.astype(np.float32)


def _llama3_of(factors: Floats, theta: float, dims: int) -> dict[str, Any]:
    parameters = {"rope_type": "llama3", "rope_theta": theta, "factor": float(factors.max()), **_LLAMA3}
    expected = _llama3_factors(parameters, dims)
    if expected.shape != factors.shape or not np.allclose(expected, factors, rtol=_CLOSE):
        raise UnsupportedError(
            "The file scales each frequency by a factor of its own, and these are not the factors of Llama 3.",
            hint="Serve it with engine gguf.",
        )
    return parameters


def _long_facts(
    config: PreTrainedConfig, parameters: Mapping[str, Any], facts: dict[str, object]
) -> tuple[dict[str, object], dict[str, Floats]]:
    """Return LongRoPE's facts: https://arxiv.org/abs/2402.13753. The factor of attention follows from the lengths."""
    old_length = int(parameters.get("original_max_position_embeddings") or config.original_max_position_embeddings)
    ratio = config.max_position_embeddings / old_length
    attention = 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(old_length))
    if abs((parameters.get("attention_factor") or attention) - attention) > _CLOSE:
        raise UnsupportedError(
            f"LongRoPE with an attention_factor of {parameters['attention_factor']!r} can't be written to GGUF."
        )
    more = {"rope.scaling.original_context_length": old_length, "rope.scaling.attn_factor": attention}
    tensors = {
        _LONG: np.asarray(parameters["long_factor"], dtype=np.float32),
        _SHORT: np.asarray(parameters["short_factor"], dtype=np.float32),
    }
    return facts | more, tensors


def _long_parameters(
    facts: Callable[[str], Any], tensors: Mapping[str, Floats], found: dict[str, object]
) -> dict[str, object]:
    old_length = int(facts("rope.scaling.original_context_length") or facts("context_length"))
    parameters = found | {
        "rope_type": "longrope",
        "long_factor": tensors[_LONG].tolist(),
        "short_factor": tensors[_SHORT].tolist(),
        "original_max_position_embeddings": old_length,
    }
    return {"rope_parameters": parameters, "original_max_position_embeddings": old_length}
