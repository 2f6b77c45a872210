"""Attention over packed sequences: several in one row, none of which sees another.

A packed micro-batch is one row of T tokens with the bounds of its sequences (the ``cu_seq_lens`` of FlashAttention's
interface, which transformers passes on to attention functions). In half precision on GPUs one FlashAttention kernel
does all of them; elsewhere each sequence is attended to by itself with torch's fused kernel. So nothing is padded, no
T x T mask is built, and a sequence's result is the one it has alone.

If all sequences begin with the same tokens, such as a system prompt, those may come once, before them, and each
sequence attends to them and to itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llamafarm_ray.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PACKED_ATTENTION", "packed_attention", "use_packed_attention"]

PACKED_ATTENTION = "llamafarm_packed"
"""The name of `packed_attention` in transformers."""

_FLASH_DTYPES = {torch.bfloat16, torch.float16}
_UNKNOWN_TERMS = ("s_aux", "softcap", "position_bias", "head_mask")
"""Additions of some models to attention that `packed_attention` does not compute."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """An attention function in transformers' form.

    Args:
        query: of shape (1, heads, T, head size) where packed.
        key: of shape (1, key heads, T, head size).
        value: likewise.
        attention_mask: of a padded batch.
        scaling: of the scores; by default one over the root of the head size.
        sliding_window: number of tokens back that a token sees, itself included.
        cu_seq_lens_q: bounds of packed sequences, int32 of shape (S + 1,); without it the batch is padded, and
            transformers' own function does it.
        max_length_q: tokens of the longest packed sequence.
        max_length_k: keys that it attends to, as FlashAttention counts them: more than ``max_length_q`` where the
            first sequence is a prefix that the others share.
        kwargs: further arguments of models.

    Returns:
        The result, of shape (1, T, heads, head size), and None for the weights.

    Raises:
        UnsupportedError: the model adds a term to attention that this function does not support.
    """
    if cu_seq_lens_q is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    _refuse_unknown_terms(module, kwargs)
    if query.is_cuda and torch.is_autocast_enabled("cuda"):  # rotary positions and norms leave fp32 behind
        query, key, value = (states.to(torch.get_autocast_dtype("cuda")) for states in (query, key, value))
    has_prefix = max_length_q is not None and max_length_k is not None and max_length_k > max_length_q
    has_kernel = query.is_cuda and query.dtype in _FLASH_DTYPES and not dropout and not has_prefix
    packed = _Packed(
        cu_seq_lens_q,
        longest=max_length_q or 0,
        num_shared=int(cu_seq_lens_q[1]) if has_prefix else 0,
        dropout=dropout,
        scaling=scaling,
        window=sliding_window,
        is_causal=bool(getattr(module, "is_causal", True)),
    )
    attend = _flash_attention if has_kernel and packed.longest else _attention_by_sequence
    return attend(query, key, value, packed), None


@dataclass(frozen=True, slots=True)
class _Packed:
    """Layout of packed sequences, and terms of their attention.

    Args:
        bounds: of the sequences, int32 of shape (S + 1,).
        longest: tokens of the longest one; 0 where it is not known.
        num_shared: tokens of the first sequence, if it is a prefix that the others share; else 0.
        window: number of tokens back that a token sees, itself included.
        is_causal: True if a token sees none after it.
    """

    bounds: torch.Tensor
    longest: int
    num_shared: int
    dropout: float
    scaling: float | None
    window: int | None
    is_causal: bool


def _refuse_unknown_terms(module: torch.nn.Module, terms: Mapping[str, object]) -> None:
    for term in _UNKNOWN_TERMS:
        if terms.get(term) is not None:
            raise UnsupportedError(
                f"{type(module).__name__} adds {term!r} to its attention, which packed rows can't have.",
                hint="Set fine_tuning.training.padding_free to false.",
            )


def _flash_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: _Packed) -> torch.Tensor:
    """All packed sequences in one kernel."""
    back = -1 if packed.window is None else packed.window - 1
    queries, keys, values = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    output = varlen_attn(
        queries,
        keys,
        values,
        packed.bounds,
        packed.bounds,
        packed.longest,
        packed.longest,
        scale=packed.scaling,
        window_size=(back, 0 if packed.is_causal else back),
        enable_gqa=query.shape[1] > key.shape[1],
    )
    assert isinstance(output, torch.Tensor)  # a pair only where more is asked for
    return output[None]


def _attention_by_sequence(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: _Packed
) -> torch.Tensor:
    """Each packed sequence by itself, with torch's fused kernel."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    shared = key[:, :, : packed.num_shared], value[:, :, : packed.num_shared]
    outputs = []
    for number, (start, end) in enumerate(itertools.pairwise(packed.bounds.tolist())):
        keys, values = key[:, :, start:end], value[:, :, start:end]
        before = packed.num_shared if number else 0
        if before:
            keys, values = torch.cat([shared[0], keys], dim=2), torch.cat([shared[1], values], dim=2)
        mask = _mask_of(end - start, before, packed.window, query.device) if packed.is_causal or packed.window else None
        outputs.append(
            functional.scaled_dot_product_attention(
                query[:, :, start:end],
                keys,
                values,
                attn_mask=mask,
                dropout_p=packed.dropout,
                scale=packed.scaling,
                is_causal=packed.is_causal and mask is None,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let a transformers model compute attention by `packed_attention`, of packed and of padded batches alike."""
    model.set_attn_implementation(PACKED_ATTENTION)


def _mask_of(length: int, before: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return which keys each of a sequence's tokens sees; None where the plain causal mask says the same.

    Args:
        before: keys of the shared prefix, which come first.
        window: number of tokens back that a token sees, itself included.
    """
    is_windowed = bool(window) and length + before > (window or 0)
    if not before and not is_windowed:
        return None
    distance = torch.arange(before, before + length, device=device)[:, None] - torch.arange(
        before + length, device=device
    )
    seen = distance >= 0
    return seen & (distance < window) if window and is_windowed else seen


def _mask(*args: object, attention_mask: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor | None:
    """The mask of a padded batch; packed ones have none."""
    if attention_mask is None:
        return None
    mask: torch.Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    return mask


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _mask)
