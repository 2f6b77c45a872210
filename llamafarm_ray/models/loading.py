"""Load a base model's architecture and weights from its folder, never from the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.integrations import is_deepspeed_zero3_enabled

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.models.header_check import check_headers
from llamafarm_ray.models.loading_report import check_loaded_weights, other_shapes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "Architecture",
    "Task",
    "bare_model",
    "can_pack",
    "inspect_architecture",
    "linear_layers",
    "linear_module_names",
    "load_model",
    "text_part",
]

Task = Literal["causal-lm", "embedding"]
"""Task of a model: writing text, or giving each token (and so each text) a vector; encoders do the latter only."""

_MODELS = {"causal-lm": AutoModelForCausalLM, "embedding": AutoModel}
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
_MATRIX = 2
"""Dimensions of a linear layer's weight."""
_UNMARKED_ENCODERS = {"big_bird", "megatron-bert", "rembert", "roformer", "xlm", "xlnet"}
_WORDS = {"causal-lm": "causal language model", "embedding": "embedding model"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Facts about a model before its weights are read.

    Args:
        num_parameters: parameters, tied ones counted once.
        linear_modules: last parts of the names of the linear layers that can be adapted (`linear_module_names`).
        module_names: every module's dotted name.
        max_positions: the longest sequence in tokens it was made for, where its config says.
        task: task it was built for.
        hidden_size: width of the vectors that blocks hand on, where its config says.
        linear_layers: inputs and outputs of each linear layer but the output head, by its dotted name, in the order
            they are defined.
        is_causal: True if a token sees none after it, and there is no encoder that sees the whole text.
        takes_prefix: True if there are causal attention layers, whose caches can hold a trained prefix.
        can_pack: see `can_pack`.
        num_expert_parameters: those of routed experts that are kept as one tensor for all of a layer: no linear layers.
        is_half: True if its weights are kept in bf16 or fp16, as its config says.
    """

    num_parameters: int
    linear_modules: tuple[str, ...]
    module_names: tuple[str, ...]
    max_positions: int | None
    task: Task = "causal-lm"
    hidden_size: int | None = None
    linear_layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    is_causal: bool = True
    takes_prefix: bool = True
    can_pack: bool = False
    num_expert_parameters: int = 0
    is_half: bool = False


def inspect_architecture(folder: Path, *, task: Task = "causal-lm") -> Architecture:
    """Build the model without weights (torch's meta device) and look at it.

    Raises:
        InputError: config.json names no model for that task that transformers knows.
    """
    with _as_input_error(folder, task):
        config = _read_config(folder)
        has_encoder = config.is_encoder_decoder  # which building one of its halves sets to false
        model = _without_weights(config, task)
    return Architecture(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear_modules=tuple(linear_module_names(model)),
        module_names=tuple(name for name, _ in model.named_modules() if name),
        max_positions=_max_positions(model),
        task=task,
        hidden_size=getattr(config.get_text_config(), "hidden_size", None),
        linear_layers=linear_layers(model),
        is_causal=not has_encoder and _is_causal(model, task),
        takes_prefix=any(_causal_marks(model)),
        can_pack=can_pack(model),
        num_expert_parameters=sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if "experts" in name.split(".") and parameter.dim() > _MATRIX
        ),
        is_half=getattr(config, "dtype", None) in {torch.bfloat16, torch.float16},
    )


def bare_model(folder: Path, *, task: Task = "causal-lm") -> PreTrainedModel:
    """Build the model without weights, on torch's meta device.

    Raises:
        InputError: config.json names no model for that task that transformers knows.
    """
    with _as_input_error(folder, task):
        return _without_weights(_read_config(folder), task)


@contextlib.contextmanager
def _as_input_error(folder: Path, task: Task) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise InputError(
            f"The base model {str(folder)!r} is no {_WORDS[task]} that can be trained: {first_line(error)}",
            hint="Models that bring their own code are refused.",
        ) from error


def _read_config(folder: Path) -> PreTrainedConfig:
    return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _without_weights(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    with torch.device("meta"):
        return _MODELS[task].from_config(config, trust_remote_code=False)


def _is_causal(model: PreTrainedModel, task: Task) -> bool:
    """Return True if a model's tokens see none after them.

    Attention layers of most architectures say so. Those that don't are taken for causal where they write text, but for
    the encoders among them, which transformers builds as models that write text, too.
    """
    marks = _causal_marks(model)
    if marks or task != "causal-lm":
        return any(marks)
    return getattr(model.config, "is_decoder", None) is True or model.config.model_type not in _UNMARKED_ENCODERS


def _causal_marks(model: PreTrainedModel) -> list[bool]:
    return [module.is_causal is True for module in model.modules() if hasattr(module, "is_causal")]


def can_pack(model: PreTrainedModel) -> bool:
    """Return True if a model's tokens meet in attention only, with nothing added to its scores.

    Args:
        model: a transformers model; one without weights will do.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or _PLAIN_LAYERS)
    return bool(
        getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
        and layers <= _PLAIN_LAYERS
        and not getattr(config, "attn_logit_softcapping", None)
        and getattr(config, "position_embedding_type", "absolute") in {"absolute", None}
        and config.model_type not in {"gpt_oss", "bloom", "mpt", "falcon", "t5"}
    )


def _max_positions(model: PreTrainedModel) -> int | None:
    """The longest sequence; RoBERTa's kin number positions from after the padding token's id."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        padding: int | None = getattr(module, "padding_idx", None)
        if limit is not None and name.endswith("position_embeddings") and padding is not None:
            return limit - padding - 1
    return limit


def load_model(folder: Path, *, dtype: torch.dtype, task: Task = "causal-lm", **options: object) -> PreTrainedModel:
    """The folder's model with its weights, from safetensors only.

    Headers are read first: weights that can't fill what config.json describes are refused before memory is taken.

    Args:
        dtype: precision of floating point weights.
        task: with the head that writes text, or without.
        options: passed on to ``from_pretrained`` (``quantization_config``, ``device_map``).

    Raises:
        InputError: the weights can't be read, or are not those that config.json describes.
    """
    try:
        config = _read_config(folder)
        if getattr(config.get_text_config(), "attn_logit_softcapping", None):
            options["attn_implementation"] = "eager"  # the one that caps the scores, as the model was trained
        packed = getattr(config, "quantization_config", None)
        if isinstance(packed, dict) and packed.get("quant_method") == "compressed-tensors":
            packed["dequantize"] = True  # else the first forward pass does it, when adapters are in the layers' place
            _hide_progress_bars()
        bare = None if is_deepspeed_zero3_enabled() else _without_weights(_read_config(folder), task)
        if bare is not None:  # ZeRO-3 would split the bare model too; each of its workers allocates a part alone
            check_headers(bare, folder, is_packed=packed is not None, without_head=task == "embedding")
        model, report = _MODELS[task].from_pretrained(
            str(folder),
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            # Reported with their names below, where transformers only says that there are some.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
        if bare is not None and "quantization_config" in options and not hasattr(config, "quantization_config"):
            # Transformers compares no shapes then. Of a base that is quantized already, they are those of packed bits.
            report["mismatched_keys"] = other_shapes(folder, bare)
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"The weights in {str(folder)!r} can't be loaded: {first_line(error)}", hint="Download the model again."
        ) from error
    check_loaded_weights(model, report, folder, without_head=task == "embedding")
    model.config.use_cache = False
    return model


def _hide_progress_bars() -> None:
    """Keep compressed-tensors' progress bars off the user's terminal, as those of transformers are."""
    from compressed_tensors.compressors.model_compressors import model_compressor  # for such files only

    model_compressor.tqdm = lambda modules, **_: modules


def linear_layers(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each linear layer but the output head, by dotted name, in the order of definition.

    An encoder's pooling head is left out as well: vectors are taken from the last layer, so no loss reaches it.
    """
    head = model.get_output_embeddings()
    return {
        name: _features(module)
        for name, module in model.named_modules()
        if module is not head and _is_linear(module) and "pooler" not in name.split(".")
    }


def linear_module_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all linear layers that can be adapted, sorted: ``["down_proj", ...]``.

    Not among them are the output head, layers that read images or sounds, routers of experts that return more than a
    tensor, and those layers of Mamba whose weights are used past the layer.
    """
    text = text_part(model)
    unfit = {
        f"{name}.{inner}".lstrip(".")
        for name, module in model.named_modules()
        if all(hasattr(module, attribute) for attribute in ("A_log", "D", "conv1d"))
        for inner in ("dt_proj", "out_proj", "x_proj")
    }
    found: set[str] = set()
    left_out: set[str] = set()
    for name in linear_layers(model):
        last = name.rpartition(".")[2]
        if not name.startswith(text):
            continue
        (found if name not in unfit and not _is_router(model.get_submodule(name)) else left_out).add(last)
    return sorted(found - left_out)


def text_part(model: PreTrainedModel) -> str:
    """Return the beginning of the names of the text model's modules, in a model that reads images or sounds too.

    It is empty for a model of text alone.
    """
    if not any(hasattr(model.config, name) for name in ("vision_config", "audio_config")):
        return ""
    decoder = model.get_decoder()
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def _is_router(module: torch.nn.Module) -> bool:
    """Return True for a linear layer of transformers' own that is called a router; it returns a tuple of tensors."""
    kind = type(module)
    return kind.__module__.startswith("transformers.models.") and "Router" in kind.__name__


def _is_linear(module: object) -> bool:
    # GPT-2's Conv1D is a linear layer with its weight transposed; peft adapts both.
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _features(module: Any) -> tuple[int, int]:
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    return int(module.nx), int(module.nf)
