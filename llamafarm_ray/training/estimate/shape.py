"""The shape of a decoder-only transformer: all that its memory and its work depend on. Arithmetic, no weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.training.estimate.tables import Tables

__all__ = ["Linear", "ModelShape"]

_PLAIN_MLP = frozenset(
    {"gpt2", "gpt_neox", "gpt_neo", "gptj", "opt", "phi", "falcon", "bloom", "mpt", "starcoder2", "bert", "roberta"}
)
"""Model types whose feed-forward network has one matrix up and one down, without a gate."""
_QKV_BIAS = frozenset({"qwen2"})
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bm])", re.IGNORECASE)
_NEAR = 0.15
"""A size takes the shape of a known model whose size differs by no more than this share."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a block.

    Args:
        name: its last part, as Llama calls it.
        inputs: width of its input.
        outputs: width of its output.
        reads: one of a block's four inputs; layers that read the same one share a saved copy.
    """

    name: str
    inputs: int
    outputs: int
    reads: str

    @property
    def weights(self) -> int:
        """Elements of its matrix."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder's dimensions, named as in transformers' config.json.

    Args:
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward network.
        num_kv_heads: heads of keys and values.
        tied: True if the output head is the embedding's matrix.
        gated: True if the feed-forward network has a gate beside ``up``.
        qkv_bias: True if queries, keys and values have a bias.
        max_positions: the longest sequence it was made for, where the config says.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False
    gated: bool = True
    qkv_bias: bool = False
    max_positions: int | None = None

    @classmethod
    def of_config(cls, config: Mapping[str, Any], name: str) -> ModelShape:
        """Read what transformers calls a config.

        Raises:
            InputError: a dimension is missing.
            UnsupportedError: it is a mixture of experts or an encoder-decoder.
        """
        config = config.get("text_config") or config
        if any((config.get(key) or 0) > 1 for key in _EXPERTS) or config.get("is_encoder_decoder"):
            raise UnsupportedError(
                f"{name} is a mixture of experts or an encoder-decoder, whose memory can't be estimated yet.",
                hint="Estimates support decoder-only models with one feed-forward network a block.",
            )

        def first(*keys: str) -> Any:
            return next((config[key] for key in keys if config.get(key) is not None), None)

        hidden, layers = first("hidden_size", "n_embd"), first("num_hidden_layers", "n_layer")
        heads, vocab = first("num_attention_heads", "n_head"), first("vocab_size")
        sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab}
        for key, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"The config of {name} has no usable {key}: {value!r}.", hint="Is it a decoder?")
        model_type = str(config.get("model_type", "llama"))
        return cls(
            name=name,
            hidden_size=hidden,
            intermediate_size=first("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=first("num_key_value_heads") or heads,
            head_dim=first("head_dim") or hidden // heads,
            vocab_size=vocab,
            # transformers' own default differs by model; Llama's and most successors' is False, GPT-2's True.
            tied=bool(config.get("tie_word_embeddings", model_type in {"gpt2", "opt", "bloom", "gemma", "gemma2"})),
            gated=model_type not in _PLAIN_MLP,
            qkv_bias=bool(config.get("attention_bias", model_type in _QKV_BIAS)),
            max_positions=first("max_position_embeddings", "n_positions"),
        )

    @classmethod
    def of_folder(cls, folder: Path) -> ModelShape:
        """Read ``config.json`` of a model's folder.

        Raises:
            InputError: it is missing or unreadable.
            UnsupportedError: see `of_config`.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{str(folder / 'config.json')!r} can't be read: {error}", hint="Give a folder in transformers' layout."
            ) from error
        return cls.of_config(config, folder.name)

    @classmethod
    def of_size(cls, size: str, tables: Tables) -> ModelShape | None:
        """The shape of a typical model of a size such as ``7b``, ``1.5B`` or ``500m``; None if it is no size.

        Raises:
            InputError: no known model is about that large.
        """
        match = _SIZE.fullmatch(size.strip())
        if match is None:
            return None
        wanted = float(match[1]) * (1e9 if match[2].lower() == "b" else 1e6)
        if (row := tables.sizes.get(size.strip().lower())) is not None:
            return cls.of_config(row, f"{size.lower()} (as {row['like']})")
        shapes = {row["like"]: cls.of_config(row, f"{size} (as {row['like']})") for row in tables.sizes.values()}
        near = min(shapes.values(), key=lambda shape: abs(shape.num_parameters - wanted))
        if abs(near.num_parameters - wanted) > _NEAR * wanted:
            raise InputError(
                f"No model of about {size} is known to estimates.",
                hint=f"Known sizes: {', '.join(tables.sizes)}. Or give a folder with the model's config.json.",
            )
        return near

    @property
    def query_size(self) -> int:
        """Width of all heads' queries."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all heads' keys, or values."""
        return self.num_kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """A block's linear layers."""
        hidden, inner = self.hidden_size, self.intermediate_size
        gate = (Linear("gate_proj", hidden, inner, "mlp_in"),) if self.gated else ()
        return (
            Linear("q_proj", hidden, self.query_size, "attention_in"),
            Linear("k_proj", hidden, self.kv_size, "attention_in"),
            Linear("v_proj", hidden, self.kv_size, "attention_in"),
            Linear("o_proj", self.query_size, hidden, "attention_out"),
            *gate,
            Linear("up_proj", hidden, inner, "mlp_in"),
            Linear("down_proj", inner, hidden, "mlp_out"),
        )

    @property
    def linear_weights(self) -> int:
        """Weights of all blocks' linear layers, which is what a quantised model quantises."""
        return self.num_layers * sum(linear.weights for linear in self.linears)

    @property
    def embedding_weights(self) -> int:
        """Elements of the embedding, and as many of the output head."""
        return self.vocab_size * self.hidden_size

    @property
    def other_weights(self) -> int:
        """Norms, biases, embedding and, if it is not tied, the output head."""
        bias = self.query_size + 2 * self.kv_size if self.qkv_bias else 0
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return norms + self.num_layers * bias + self.embedding_weights * (1 if self.tied else 2)

    @property
    def num_parameters(self) -> int:
        """All weights, tied ones counted once."""
        return self.linear_weights + self.other_weights
