"""Model families that are converted between transformers and GGUF: the facts that both have names for.

The facts are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A property that GGUF has no fact for
is built into llama.cpp; a model in which it has another value is refused instead of being written as another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.storage.formats.gguf import GgufHeader

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["FAMILIES", "Family", "family_of_config", "family_of_file"]

_DECODER = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_LAYER_NORMS = {
    **{fact: name for fact, name in _DECODER.items() if fact != "attention.layer_norm_rms_epsilon"},
    "attention.layer_norm_epsilon": "layer_norm_eps",
}
"""Likewise of families whose norms subtract the mean."""

_HEADS = {"attention.key_length": "head_dim"}
_EXPERTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
_NARROW_EXPERTS = {"expert_feed_forward_length": "moe_intermediate_size"}
"""Of families whose experts are narrower than ``intermediate_size``."""

_ALL_LAYERS_HAVE_EXPERTS = {"decoder_sparse_step": 1, "mlp_only_layers": []}
_KV_HEADS = "attention.head_count_kv"
_SECOND_NORM = "blk.0.attn_norm_2.weight"
_GEMMA = {**_DECODER, **_HEADS, "attention.sliding_window": "sliding_window"}
_GEMMA_FIXED = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": (None, False),
}
_LARGEST_GEMMA_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Of the 27B models, whose attention is scaled by the width of a head as it would be without ``head_dim``."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    Attributes:
        architecture: its name in GGUF, which prefixes its facts.
        model_types: its names in transformers' configurations; a file is read as the first.
        fields: attributes of the configuration, by the facts that hold them.
        optional: likewise those that may be ``None``, and are absent then.
        fixed: values that llama.cpp computes with, by attribute; a tuple lists several that mean the same.
        derived: values that llama.cpp computes from others.
        norm_offset: number added to the weights of norms, which transformers adds in the forward pass.
        permutes: True if query and key rows are in another order, for rotating pairs of neighbors.
        transposed: endings of the names of weights that transformers holds transposed.
        biases: attributes that say whether there are biases, and a tensor of GGUF that is there if so.
        is_rotary: True if positions turn queries and keys.
        has_experts: True if a router sends each token to some of many feed-forward networks.
        groups: number of groups in a fused tensor of queries, keys and values, of which each has the queries that
            share one key; GGUF has all queries first, then all keys.
        written: facts that do not equal one attribute, by name.
        read: attributes of the configuration that do not equal one fact.
    """

    architecture: str
    model_types: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=lambda: _DECODER)
    optional: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)
    derived: Mapping[str, Callable[[PreTrainedConfig], object]] = field(default_factory=dict)
    norm_offset: float = 0.0
    permutes: bool = False
    transposed: tuple[str, ...] = ()
    biases: Mapping[str, str] = field(default_factory=dict)
    is_rotary: bool = True
    has_experts: bool = False
    groups: Callable[[PreTrainedConfig], int] | None = None
    written: Mapping[str, Callable[[PreTrainedConfig], object]] = field(default_factory=dict)
    read: Callable[[GgufHeader], dict[str, object]] = lambda _: {}

    @property
    def computed(self) -> dict[str, object]:
        """The value that llama.cpp computes with, for each attribute of ``fixed``."""
        return {name: value[0] if isinstance(value, tuple) else value for name, value in self.fixed.items()}

    def check(self, config: PreTrainedConfig) -> None:
        """Check that the format can say everything that a configuration does.

        Raises:
            UnsupportedError: it can't; the message names the attribute.
        """
        for name, expected in self.fixed.items():
            allowed = expected if isinstance(expected, tuple) else (expected,)
            if (found := getattr(config, name, allowed[0])) not in allowed:
                raise self._cannot_say(name, found, allowed[0])
        for name, value_of in self.derived.items():
            if (found := getattr(config, name)) != (expected := value_of(config)):
                raise self._cannot_say(name, found, expected)

    def _cannot_say(self, name: str, found: object, expected: object) -> UnsupportedError:
        return UnsupportedError(
            f"The model's config.json has {name} {str(found)[:80]!r}; llama.cpp computes {self.architecture} models "
            f"with {str(expected)[:80]!r}.",
            hint="Serve it with vLLM or transformers instead.",
        )


def _layer_types(period: int) -> Callable[[PreTrainedConfig], list[str]]:
    def pattern(config: PreTrainedConfig) -> list[str]:
        layers = range(1, config.num_hidden_layers + 1)
        return ["sliding_attention" if layer % period else "full_attention" for layer in layers]

    return pattern


def _rotated_layers(config: PreTrainedConfig) -> list[int]:
    """Return 1 for each layer with positions; every fourth of SmolLM3's has none."""
    return [int(layer % 4 != 0) for layer in range(1, config.num_hidden_layers + 1)]


def _attention_scale(config: PreTrainedConfig) -> int:
    family = str(config.model_type).partition("_")[0]
    if config.num_hidden_layers == _LARGEST_GEMMA_LAYERS[family]:
        return int(config.hidden_size // config.num_attention_heads)
    return int(config.head_dim)


def _falcon_groups(config: PreTrainedConfig) -> int:
    """Return the number of keys of a token; older Falcons name it for their siblings without a shared key only."""
    if config.new_decoder_architecture or not config.multi_query:
        return int(config.num_kv_heads)
    return 1


def _falcon_layers(header: GgufHeader) -> dict[str, object]:
    """Return the attributes that tell the kinds of Falcon apart: those with one key are of the older one."""
    has_two_norms = _SECOND_NORM in header.tensors
    is_new = has_two_norms or header.of_architecture(_KV_HEADS) not in {1, None}
    norms = {"num_ln_in_parallel_attn": 2 if has_two_norms else 1} if is_new else {}
    return {"new_decoder_architecture": is_new, "multi_query": True, **norms}


FAMILIES = (
    Family(
        "llama",
        ("llama", "mistral"),
        {**_DECODER, **_HEADS},
        fixed={"hidden_act": ("silu", "swish")},
        permutes=True,
        biases={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"},
    ),
    Family(
        "llama",
        ("mixtral",),
        {**_DECODER, **_EXPERTS},
        fixed={"hidden_act": ("silu", "swish")},
        permutes=True,
        has_experts=True,
    ),
    Family("qwen2", ("qwen2",), fixed={"hidden_act": "silu", "use_sliding_window": False}),
    Family(
        "qwen2moe",
        ("qwen2_moe",),
        {
            **_DECODER,
            **_EXPERTS,
            **_NARROW_EXPERTS,
            "expert_count": "num_experts",
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        fixed={
            "hidden_act": "silu",
            "use_sliding_window": False,
            "norm_topk_prob": False,
            "qkv_bias": True,
            **_ALL_LAYERS_HAVE_EXPERTS,
        },
        has_experts=True,
    ),
    Family(
        "qwen3",
        ("qwen3",),
        {**_DECODER, **_HEADS},
        fixed={"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
    ),
    Family(
        "qwen3moe",
        ("qwen3_moe",),
        {**_DECODER, **_HEADS, **_EXPERTS, **_NARROW_EXPERTS},
        fixed={
            "hidden_act": "silu",
            "use_sliding_window": False,
            "attention_bias": False,
            "norm_topk_prob": True,
            **_ALL_LAYERS_HAVE_EXPERTS,
        },
        has_experts=True,
    ),
    Family(
        "gemma2",
        ("gemma2",),
        {
            **_GEMMA,
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        fixed=_GEMMA_FIXED,
        derived={"query_pre_attn_scalar": _attention_scale, "layer_types": _layer_types(2)},
        norm_offset=1.0,
    ),
    Family(
        "gemma3",
        ("gemma3_text",),
        _GEMMA,
        {"final_logit_softcapping": "final_logit_softcapping"},
        fixed={**_GEMMA_FIXED, "attn_logit_softcapping": None},
        derived={"query_pre_attn_scalar": _attention_scale, "layer_types": _layer_types(6)},
        norm_offset=1.0,
    ),
    Family("phi3", ("phi3",), optional={"attention.sliding_window": "sliding_window"}, fixed={"hidden_act": "silu"}),
    Family(
        "gpt2",
        ("gpt2",),
        {
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        transposed=("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
        is_rotary=False,
    ),
    Family("olmo2", ("olmo2",), fixed={"hidden_act": "silu", "attention_bias": False}),
    Family(
        "granite",
        ("granite",),
        {
            **_DECODER,
            "attention.scale": "attention_multiplier",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "logit_scale": "logits_scaling",
        },
        fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        permutes=True,
    ),
    Family(
        "smollm3",
        ("smollm3",),
        fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False},
        derived={"no_rope_layers": _rotated_layers},
        permutes=True,
    ),
    Family(
        "command-r",
        ("cohere",),
        {**_LAYER_NORMS, "logit_scale": "logit_scale"},
        fixed={"hidden_act": "silu", "attention_bias": False, "use_qk_norm": False, "tie_word_embeddings": True},
    ),
    Family(
        "stablelm",
        ("stablelm",),
        {**_LAYER_NORMS, "use_parallel_residual": "use_parallel_residual"},
        fixed={"hidden_act": "silu", "qk_layernorm": False},
        biases={"use_qkv_bias": "blk.0.attn_q.bias"},
    ),
    Family(
        "phi2",
        ("phi",),
        _LAYER_NORMS,
        fixed={
            "hidden_act": ("gelu_new", "gelu_pytorch_tanh"),
            "qk_layernorm": False,
            "tie_word_embeddings": False,
        },
    ),
    Family(
        "falcon",
        ("falcon",),
        {
            **_LAYER_NORMS,
            "feed_forward_length": "ffn_hidden_size",
            _KV_HEADS: "num_kv_heads",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"activation": "gelu", "alibi": False, "bias": False, "parallel_attn": True},
        groups=_falcon_groups,
        written={_KV_HEADS: _falcon_groups, "tensor_data_layout": lambda _: "jploski"},
        read=_falcon_layers,
    ),
    Family(
        "gptneox",
        ("gpt_neox",),
        {
            **{fact: name for fact, name in _LAYER_NORMS.items() if fact != _KV_HEADS},
            "use_parallel_residual": "use_parallel_residual",
        },
        fixed={
            "hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
        groups=lambda config: int(config.num_attention_heads),
    ),
)
"""All families, in the order in which messages list them."""


def family_of_config(config: PreTrainedConfig) -> Family:
    """Return the family of a transformers configuration.

    Raises:
        UnsupportedError: models of that type are not converted.
    """
    found = next((family for family in FAMILIES if config.model_type in family.model_types), None)
    if found is None:
        known = ", ".join(name for family in FAMILIES for name in family.model_types)
        raise UnsupportedError(
            f"Models of type {config.model_type!r} are not converted to GGUF; {known} are.",
            hint="Use llama.cpp's convert_hf_to_gguf.py, and register its file.",
        )
    return found


def family_of_file(header: GgufHeader) -> Family:
    """Return the family of a GGUF file.

    Raises:
        UnsupportedError: files of that architecture are not converted.
    """
    named = [family for family in FAMILIES if header.architecture == family.architecture]
    has_experts = bool(header.of_architecture("expert_count"))
    if not named:
        known = ", ".join(dict.fromkeys(family.architecture for family in FAMILIES))
        raise UnsupportedError(
            f"GGUF files of architecture {header.architecture[:80]!r} are not converted; {known} are.",
            hint="Serve the file as it is, with engine gguf.",
        )
    return next((family for family in named if family.has_experts == has_experts), named[0])
