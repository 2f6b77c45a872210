"""Activations kept for the backward pass: one term for each tensor that autograd saves.

The terms follow transformers' decoder blocks operation by operation, with fused attention (no s x s scores), as do
Korthikanti et al. (https://arxiv.org/abs/2205.05198, section 4) for a plain one. A test compares them with what
autograd saves, for every method and number format. T tokens, h the hidden size, i the feed-forward size, q and k the
widths of queries and keys::

    norms      2 T h in fp32; as much again, of the normalised vectors, where their weights are trained
    inputs     what each trained linear layer reads: h, q or i; shared by layers that read the same, unless autocast
               converts it for each
    attention  queries T q, keys and values 2 T k, result T q, and a logarithm per head and token in fp32
    gated MLP  3 T i: gate, its activation, up

Blocks below the lowest one with trained weights keep nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape
from llamafarm_ray.training.estimate.trained import Trained

__all__ = ["Activations"]

_FP32 = 4
_LOW = 2
_LOGIT_BYTES = 12
"""Three fp32 tensors of positions x vocabulary: log-probabilities, the loss's gradient by them, and by the logits."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of activations on one device."""

    shape: ModelShape
    setup: Setup

    @property
    def trained(self) -> Trained:
        """Weights that the method trains."""
        return Trained(self.shape, self.setup.method, self.setup.parameters)

    @property
    def saved(self) -> int:
        """All that is kept when the forward pass ends, but for logits."""
        tokens, shape = self.setup.tokens, self.shape
        final_norm = tokens * shape.hidden_size * self._norm_bytes
        if self.setup.gradient_checkpointing:
            return shape.num_layers * tokens * shape.hidden_size * self._stream_bytes + final_norm
        of_updates = self._inputs + self._extra
        blocks = self.trained.num_reached * (self.layer - of_updates) + self._num_updated * of_updates
        return blocks + final_norm + self._cast_weights - self._before_first

    @property
    def _num_updated(self) -> int:
        """Blocks whose trained weights keep their inputs."""
        return min(self.trained.num_adapted, self.trained.num_reached)

    @property
    def recomputed(self) -> int:
        """Bytes recomputed with gradient checkpointing, one block at a time; 0 without."""
        if not self.setup.gradient_checkpointing:
            return 0
        return self.layer + self._cast_weights // self.shape.num_layers

    @property
    def logits(self) -> int:
        """Bytes at the loss: log-probabilities and gradients, in fp32."""
        return _LOGIT_BYTES * self.setup.positions * self.shape.vocab_size

    @property
    def log_probabilities(self) -> int:
        """The part of `logits` that the head's weight gradient is computed beside."""
        return _FP32 * self.setup.positions * self.shape.vocab_size

    @property
    def backward(self) -> int:
        """Gradients by activations inside one block: of the gate and its input, and of two hidden vectors."""
        per_token = (2 if self.shape.gated else 1) * self.shape.intermediate_size * self._mlp_bytes
        return self.setup.tokens * (per_token + 2 * self.shape.hidden_size * self._stream_bytes)

    @property
    def layer(self) -> int:
        """Bytes kept by one block."""
        tokens, shape = self.setup.tokens, self.shape
        parts = 2 if self.setup.fused_kernels or not shape.gated else 3
        if not shape.gated:
            parts = 1
        mlp = parts * shape.intermediate_size * self._mlp_bytes
        norms = 2 * shape.hidden_size * self._norm_bytes
        return self._attention + tokens * (norms + mlp) + self._inputs + self._extra

    @property
    def _before_first(self) -> int:
        """Bytes not kept by the first block: nothing before the first trained weight has a gradient."""
        if self.trained.is_full:
            return 0
        norm = self.setup.tokens * self.shape.hidden_size * self._norm_bytes
        if self.setup.method != "adapter":
            return norm
        if self.trained.num_adapters == 1:  # the first one ends the block
            return self.layer - self._extra
        return norm + self._attention

    @property
    def _casts(self) -> bool:
        """True if autocast converts inputs; DeepSpeed holds everything in the compute format instead."""
        return self.setup.is_low and self.setup.zero_stage == 0

    @property
    def _compute_bytes(self) -> int:
        return _LOW if self.setup.is_low else _FP32

    @property
    def _stream_bytes(self) -> int:
        """Of the residual stream: fp32 where the embedding is."""
        return _FP32 if self._casts and self.setup.method in {"full", "qlora"} else self._compute_bytes

    @property
    def _mlp_bytes(self) -> int:
        """4-bit layers pass their inputs on: fp32."""
        return self._stream_bytes if self.setup.method == "qlora" else self._compute_bytes

    @property
    def _norm_bytes(self) -> int:
        """Per element that a norm reads: fp32, and the normalised value where the norm's weight is trained."""
        if self.setup.fused_kernels:
            return self._stream_bytes
        return _FP32 + (self._stream_bytes if self.trained.is_full else 0)

    @property
    def _attention(self) -> int:
        setup, shape, prefix = self.setup, self.shape, self.trained.num_virtual_tokens
        sequences = max(1, round(setup.tokens / setup.max_length))
        length = setup.tokens // sequences
        keys = setup.tokens + sequences * prefix
        is_masked = setup.masked or prefix > 0
        # With a mask, and where rows are packed, every head of the queries gets keys and values of its own.
        key_size = shape.query_size if is_masked or setup.packed else shape.kv_size
        values = 2 * keys * key_size + 2 * setup.tokens * shape.query_size
        mask = sequences * length * (length + prefix) if is_masked and not setup.packed else 0
        return (values + mask) * self._compute_bytes + setup.tokens * shape.num_heads * _FP32

    @property
    def _inputs(self) -> int:
        """Bytes of inputs that trained linear layers keep."""
        shape, trained, setup = self.shape, self.trained, self.setup
        layers = shape.linears if trained.is_full else tuple(trained.ranks)
        dropout = not trained.is_full and setup.parameters.lora_dropout > 0
        # Attention's result is kept already, unless packing copies it or autocast converts it from fp32.
        own_copies = (self._casts and setup.method == "qlora") or dropout
        if own_copies:
            width = sum(linear.inputs for linear in layers)
        else:
            reads = {linear.reads: linear.inputs for linear in layers if not self._is_shared(linear.reads)}
            per_layer = {"attention_in", "mlp_in"} if self._casts and trained.is_full else set()
            width = sum(inputs for read, inputs in reads.items() if read not in per_layer)
            width += sum(linear.inputs for linear in layers if linear.reads in per_layer)
        dropped = sum(linear.inputs for linear in layers) * _FP32 if dropout else 0  # the mask, in the adapter's format
        return setup.tokens * (width * self._compute_bytes + dropped)

    def _is_shared(self, reads: str) -> bool:
        return reads == "attention_out" and not self.setup.packed

    @property
    def _extra(self) -> int:
        """Further bytes that low-rank updates and adapters keep."""
        trained, parameters = self.trained, self.setup.parameters
        per_token = sum(trained.ranks.values())
        if parameters.use_dora:
            per_token += 2 * sum(linear.outputs for linear in trained.ranks)
        functions = 1 if parameters.non_linearity == "relu" else 2  # ReLU's gradient needs its result only
        adapter = self.shape.hidden_size + functions * trained.bottleneck
        if parameters.adapter_dropout > 0:
            adapter += 2 * self.shape.hidden_size
        return self.setup.tokens * (per_token + trained.num_adapters * adapter) * self._compute_bytes

    @property
    def _cast_weights(self) -> int:
        """Autocast keeps a 16-bit copy of every fp32 weight that a product used, until its gradient is known."""
        if not self._casts:
            return 0
        if self.trained.is_full:
            return _LOW * (self.shape.linear_weights + self.shape.embedding_weights)
        head = self.shape.embedding_weights if self.setup.method == "qlora" else 0
        return _LOW * (self.trained.num_parameters + head)
