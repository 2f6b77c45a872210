"""One model from a base and its adapter, and one adapter from several; both checked before they are believed."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoConfig

from llamafarm_ray.errors import IntegrityError, UnsupportedError, UserError
from llamafarm_ray.models.adapters import add_adapter, load_adapter, read_adapter_config, why_not_merged
from llamafarm_ray.models.folder import TOKENIZER_FILES
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.models.loading import Task, load_model
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.training.methods.base import check_saved_weights
from llamafarm_ray.training.methods.peft_method import write_adapter

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "COMBINATIONS",
    "SAMPLE_PROMPTS",
    "Combination",
    "Combined",
    "Merged",
    "check_combinable",
    "check_mergeable",
    "combine_adapters",
    "merge_adapter",
]

Combination = Literal["linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
COMBINATIONS: tuple[Combination, ...] = (
    "cat",
    "svd",
    "linear",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
)
"""cat: exact, the ranks add up. svd: the best approximation of a rank (Eckart-Young). linear: matrices averaged apart,
rough. ties (https://arxiv.org/abs/2306.01708): trimmed, and only values that agree on a sign. dare_linear and dare_ties
(https://arxiv.org/abs/2311.03099): values dropped at random and the rest scaled up. magnitude_prune: the largest kept.
"""

SAMPLE_PROMPTS = (
    "The capital of France is",
    "How many legs does a spider have?",
    "def add(a, b):\n    return",
    "Water boils at one hundred degrees Celsius. " * 4,
)
"""Prompts for both models in `merge_adapter`."""

_WITH_DENSITY = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
_OF_EQUAL_RANKS = ("linear", *_WITH_DENSITY)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOLERANCE = 1e-4
"""Relative tolerance of numbers that are equal but for the order of sums in fp32."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Result of `merge_adapter`.

    Args:
        dtype: the number format of the written weights: ``fp32``, ``bf16`` or ``fp16``. max_difference: the largest
        difference of any logit between base with adapter and the merged model in fp32. relative_difference: that as a
        share of the largest logit; more than ``tolerance`` is an error. rounded_difference: the same share once weights
        are rounded to ``dtype``, from the files read back. The part above ``relative_difference`` is the price of the
        format. tolerance: the share that was allowed. num_prompts: texts that both were given.
    """

    dtype: str
    max_difference: float
    relative_difference: float
    rounded_difference: float
    tolerance: float
    num_prompts: int


@dataclass(frozen=True, slots=True)
class Combined:
    """Result of `combine_adapters`.

    Args:
        r: the highest rank of the combined adapter.
        error: distance of its updates from the weighted sum of the adapters' updates: the norm of the difference as a
            share of the norm of the sum. 0 for cat; by intention not for ties, DARE and pruning.
    """

    r: int
    error: float


def check_mergeable(adapter: Path) -> None:
    """Check that the adapter is of a type that merges.

    Raises:
        InputError: the folder is no adapter.
        UnsupportedError: it is of another type.
    """
    if reason := why_not_merged(read_adapter_config(adapter)):
        raise UnsupportedError(
            f"{adapter} can't be merged: {reason}.",
            hint="Serve it beside its base model, where an engine serves it, or train with lora.",
        )


def merge_adapter(base: Path, adapter: Path, output: Path, *, dtype: str = "auto") -> Merged:
    """Write the base model with the adapter's update in its weights, and check that it answers alike.

    The sum is made in fp32 and then rounded to the format that is written. Three answers are compared: of the adapter
    on its base, of the sum, and of the written files read back, which must be those of the rounded sum.

    Args:
        base: the base model's folder; unquantised, also for an adapter that was trained on 4-bit weights.
        adapter: a LoRA adapter's folder.
        output: an existing folder.
        dtype: ``fp32``, ``bf16`` or ``fp16``; ``auto`` is the base model's own.

    Raises:
        InputError: a folder is unusable.
        UnsupportedError: the adapter is of a type that doesn't merge, or the base model is quantised itself.
        IntegrityError: the merged model answers differently, or the files hold another one.
    """
    check_mergeable(adapter)
    task = _task(adapter)
    config = AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedError(
            f"{base} is quantised, and a sum would have to be rounded to so few bits again that the adapter gets lost.",
            hint="Merge into the unquantised model, with --base-model, and quantise that.",
        )
    target = _dtype(config, dtype)
    tokenizer = load_tokenizer(base)
    inputs = [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in SAMPLE_PROMPTS]
    plain = load_model(base, dtype=torch.float32, task=task)
    was_tied = _untie(plain) if not _keeps_tie(adapter) else False
    model = load_adapter(plain, adapter).eval()
    expected = _outputs(model, inputs)
    merged = _merged(model, adapter)
    if was_tied:
        _tie_if_equal(merged)
    largest = max(float(tensor.abs().max()) for tensor in expected)
    difference = _difference(expected, _outputs(merged, inputs))
    _check(difference, largest, "The merged model answers differently from the adapter on its base")
    for parameter in merged.parameters():  # not buffers, which are made anew when a model is loaded
        parameter.data = parameter.data.to(target).to(torch.float32)
    rounded = _outputs(merged, inputs)
    merged.to(target).config.use_cache = True
    merged.save_pretrained(str(output))
    check_saved_weights(output)
    for name in TOKENIZER_FILES:
        source = adapter / name if (adapter / name).is_file() else base / name
        if source.is_file():
            shutil.copyfile(source, output / name)
    del model, merged
    gc.collect()  # a large model need not be in memory twice
    found = _outputs(load_model(output, dtype=torch.float32, task=task).eval(), inputs)
    _check(_difference(rounded, found), largest, "The written model answers differently from the one in memory")
    return Merged(
        _name(target),
        difference,
        difference / largest,
        _difference(expected, found) / largest,
        _TOLERANCE,
        len(inputs),
    )


def _merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Return the plain model with the adapter's update in its weights."""
    try:
        return model.merge_and_unload(safe_merge=True)
    except UNREADABLE as error:
        raise UnsupportedError(
            f"{adapter} can't be merged: {first_line(error)}", hint="Serve the adapter beside its base model."
        ) from error


def _keeps_tie(adapter: Path) -> bool:
    """Return True if an adapter's configuration has peft change the embeddings and a tied head alike."""
    values = read_adapter_config(adapter).values
    return bool(values.get("trainable_token_indices") or values.get("ensure_weight_tying"))


def _untie(model: PreTrainedModel) -> bool:
    """Give a model that uses its input embeddings as its output head a head of its own, of the same values.

    An update of one of them would change both.

    Returns:
        True if the model has one by now; False if it had one before, or none.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return False
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return True


def _tie_if_equal(model: PreTrainedModel) -> None:
    """Take `_untie` back where the output head is equal to the input embeddings still."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if torch.equal(head.weight, embeddings.weight):
        head.weight = embeddings.weight
        model.config.tie_word_embeddings = True


def _difference(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def _check(difference: float, largest: float, what: str) -> None:
    if not difference <= _TOLERANCE * largest:  # a NaN is not
        raise IntegrityError(
            f"{what}: logits of up to {largest:.4g} differ by up to {difference:.4g}, and "
            f"{_TOLERANCE * largest:.4g} is allowed.",
            hint="Check that the base model is the one the adapter was trained on, and that there is disk space.",
        )


def check_combinable(adapters: Sequence[Path], weights: Sequence[float], method: str, density: float | None) -> None:
    """Check what can be known before a model is loaded.

    Raises:
        InputError: a folder is no adapter.
        UserError: the numbers don't fit, or the adapters don't fit each other or the method.
    """
    if len(adapters) < 2:  # that is what combining means
        raise UserError("Only one adapter was given.", hint="Name two or more.")
    if len(weights) != len(adapters):
        raise UserError(
            f"There are {len(weights)} weights for {len(adapters)} adapters.", hint="Give one for each, in their order."
        )
    if not any(weights):
        raise UserError("All weights are 0, so nothing would be left.", hint="Give other weights.")
    if method not in COMBINATIONS:
        raise UserError(f"There is no method {method!r}.", hint=f"Use {', '.join(COMBINATIONS)}.")
    if (density is not None) != (method in _WITH_DENSITY):
        asked = "needs a density: the share of values that is kept" if density is None else "has no density"
        raise UserError(f"Method {method} {asked}.", hint="Say --density 0.5." if density is None else "Leave it out.")
    if density is not None and not 0 < density <= 1:
        raise UserError(f"The density is {density:g}; it is a share.", hint="Give more than 0, and at most 1.")
    configs = [read_adapter_config(adapter).values for adapter in adapters]
    for adapter, config in zip(adapters, configs, strict=True):
        if config["peft_type"] != "LORA" or config.get("use_dora"):
            kind = "uses DoRA, whose magnitudes don't add" if config.get("use_dora") else f"is {config['peft_type']}"
            raise UnsupportedError(f"{adapter} {kind}; only LoRA adapters are combined.", hint="Leave it out.")
    if len({type(config.get("target_modules")) for config in configs}) > 1:
        raise UserError(
            "Some adapters name their layers in a list and some by a pattern, which can't be combined.",
            hint="Train them with the same target_modules.",
        )
    ranks = [config["r"] for config in configs]
    if method in _OF_EQUAL_RANKS and (len(set(ranks)) > 1 or any(config.get("rank_pattern") for config in configs)):
        shown = ", ".join(str(rank) for rank in ranks)
        raise UserError(
            f"Method {method} needs adapters of one rank in all layers; they have {shown}"
            f"{', and ranks that differ by layer' if any(config.get('rank_pattern') for config in configs) else ''}.",
            hint="Use cat or svd.",
        )


def combine_adapters(
    base: Path,
    adapters: Sequence[Path],
    weights: Sequence[float],
    output: Path,
    *,
    method: Combination = "cat",
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
) -> Combined:
    """Write one LoRA adapter from several on the same base, through peft's ``add_weighted_adapter``.

    Args:
        weights: weight of each update; negative ones take away.
        output: an existing folder.
        method: see `COMBINATIONS`.
        density: the share of values that ties, DARE and pruning keep.
        rank: of the result (svd); the highest of the adapters by default.
        seed: of DARE's random choice.

    Raises:
        UserError: the numbers don't fit, or the adapters don't fit each other, the method or the base.
        IntegrityError: the written adapter is not the combination.
    """
    check_combinable(adapters, weights, method, density)
    from peft import get_peft_model_state_dict  # see PeftMethod.wrap

    names = [f"part{number}" for number in range(len(adapters))]
    model = _load_adapters(base, dict(zip(names, adapters, strict=True)))
    # peft copies the first one's configuration, while the matrices it makes are scaled already.
    model.peft_config[names[0]].use_rslora = False
    model.peft_config[names[0]].layers_to_transform = _layers_of_any(model.peft_config[name] for name in names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_weighted_adapter(
            names,
            list(weights),
            adapter_name="combined",
            combination_type=method,
            density=density,
            svd_rank=rank,
            svd_full_matrices=False,
        )
    error = _error(model, names, weights)
    if method == "cat" and not error <= _TOLERANCE:
        raise IntegrityError(
            f"The combined update differs from the sum of its parts by {error:.3g} of its size.",
            hint="This is a fault of ours; try svd.",
        )
    config = model.peft_config["combined"]
    config.lora_dropout = 0.0
    state = get_peft_model_state_dict(model, adapter_name="combined", save_embedding_layers=False)
    write_adapter(state, config, output)
    for name in TOKENIZER_FILES:
        if (adapters[0] / name).is_file():
            shutil.copyfile(adapters[0] / name, output / name)
    return Combined(int(config.r), error)


def _layers_of_any(configs: Iterable[PeftConfig]) -> list[int] | None:
    """Return the blocks that any adapter changes; None: all."""
    found: set[int] = set()
    for config in configs:
        layers = config.layers_to_transform
        if layers is None:
            return None
        found.update([layers] if isinstance(layers, int) else layers)
    return sorted(found)


def _load_adapters(base: Path, adapters: Mapping[str, Path]) -> PreTrainedModel:
    """Load a base model with adapters, each under its name."""
    (first, folder), *others = adapters.items()
    model = load_adapter(load_model(base, dtype=torch.float32, task=_task(folder)), folder, name=first)
    for name, adapter in others:
        add_adapter(model, adapter, name=name)
    return model


@torch.no_grad()
def _error(model: PreTrainedModel, names: Sequence[str], weights: Sequence[float]) -> float:
    """See `Combined.error`."""
    apart = total = 0.0
    for module in model.modules():
        updates = getattr(module, "lora_A", {})
        parts = [(name, weight) for name, weight in zip(names, weights, strict=True) if name in updates]
        if parts:
            expected = torch.as_tensor(sum(module.get_delta_weight(name) * weight for name, weight in parts))
            found = module.get_delta_weight("combined") if "combined" in updates else torch.zeros_like(expected)
            apart += float((found - expected).square().sum())
            total += float(expected.square().sum())
    return float((apart / total) ** 0.5) if total else 0.0


@torch.no_grad()
def _outputs(model: PreTrainedModel, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Logits, or vectors where there is no head, of each text."""
    results = (model(input_ids=ids) for ids in inputs)
    return [(result.logits if hasattr(result, "logits") else result.last_hidden_state).float() for result in results]


def _task(adapter: Path) -> Task:
    return "embedding" if read_adapter_config(adapter).values.get("task_type") == "FEATURE_EXTRACTION" else "causal-lm"


def _dtype(config: PreTrainedConfig, name: str) -> torch.dtype:
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise UserError(f"There is no format {name!r}.", hint=f"Use auto, {', '.join(_DTYPES)}.")
    own = getattr(config, "dtype", None)
    return next((dtype for dtype in _DTYPES.values() if dtype == own), torch.float32)


def _name(dtype: torch.dtype) -> str:
    return next(name for name, value in _DTYPES.items() if value == dtype)
