"""Conversion of one model: read, written in another format, read back and compared before it is published."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
import yaml
from gguf import GGMLQuantizationType

from llamafarm_ray.errors import InputError, IntegrityError, UnsupportedError, did_you_mean
from llamafarm_ray.models.convert.calibration import calibration_samples, column_importance
from llamafarm_ray.models.convert.gguf_file import write_gguf_model
from llamafarm_ray.models.convert.gguf_model import load_gguf_model
from llamafarm_ray.models.convert.gguf_tokenizer import load_gguf_tokenizer
from llamafarm_ray.models.convert.measure import (
    Bound,
    Difference,
    Outputs,
    check_difference,
    compare,
    measured_inputs,
    run_model,
)
from llamafarm_ray.models.convert.precisions import GGUF_PRECISIONS, gguf_precision
from llamafarm_ray.models.folder import NAMED_TEMPLATES, TOKENIZER_FILES, check_base_model
from llamafarm_ray.models.formats.card import card_of_gguf
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.packed_files import is_packed
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.storage.downloads.record import find_licence
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.formats.safetensors import read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "DTYPES",
    "GGUF_NAME",
    "TARGETS",
    "Conversion",
    "Target",
    "bound_of",
    "check_precision",
    "check_tokens",
    "convert_model",
    "copy_companions",
    "copy_configuration",
    "read_model",
    "write_companions",
]

Target = Literal["safetensors", "gguf", "onnx", "openvino", "mlx"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""Formats that a model is converted to."""

GGUF_NAME = "model.gguf"
"""The file of a folder that a model was converted to GGUF in."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Formats of unquantized weights, by name."""

_BOUNDS = {
    "fp32": Bound(1e-5, 1.001),
    "bf16": Bound(0.01, 1.01),
    "fp16": Bound(0.01, 1.01),
    "int8": GGUF_PRECISIONS["q8_0"].bound,
    "int4": GGUF_PRECISIONS["q4_0"].bound,
}
_GGUF_KINDS = {"fp32": GGMLQuantizationType.F32, "fp16": GGMLQuantizationType.F16, "bf16": GGMLQuantizationType.BF16}
_SAFETENSORS_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
_PRECISIONS: Mapping[Target, tuple[str, ...]] = {
    "safetensors": tuple(DTYPES),
    "gguf": tuple(GGUF_PRECISIONS),
    "onnx": ("fp32", "fp16"),
    "openvino": ("fp32", "fp16"),
    "mlx": (*DTYPES, "int8", "int4"),
}
_CONFIGURATIONS = ("config.json", "generation_config.json")
_DOCUMENTS = ("LICENSE*", "NOTICE*", "README.md")
_CARD_FACTS = ("license", "license_name", "license_link", "tags", "datasets")
_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion.

    Attributes:
        precision: the format of weights, by name.
        difference: from the source.
        inputs: the token ids that both forms were given, by text.
        next_tokens: the converted model's most probable next token after each text, where it is clearly the most
            probable; -1 elsewhere.
        num_samples: texts that the rounding was fitted to.
    """

    target: Target
    precision: str
    difference: Difference
    inputs: tuple[tuple[int, ...], ...]
    next_tokens: tuple[int, ...]
    num_samples: int = 0


def check_precision(target: str, precision: str) -> tuple[Target, str]:
    """Return a target and a precision that were checked before anything is read.

    Raises:
        InputError: one is not known.
    """
    chosen = next((known for known in TARGETS if known == target), None)
    if chosen is None:
        raise InputError(f"There is no conversion to {target!r}.", hint=did_you_mean(target, TARGETS))
    known = _PRECISIONS[chosen]
    if precision.lower() not in {*known, _AUTO}:
        raise InputError(f"There is no precision {precision!r} of {chosen}.", hint=f"Use {_AUTO}, {', '.join(known)}.")
    return chosen, precision.lower()


def bound_of(target: Target, precision: str) -> Bound:
    """Return the largest difference from the source that is let through."""
    return gguf_precision(precision).bound if target == "gguf" else _BOUNDS[precision]


def convert_model(
    source: Path,
    output: Path,
    *,
    target: Literal["safetensors", "gguf"],
    precision: str = _AUTO,
    name: str = "model",
    documents: Path | None = None,
    calibration: Sequence[str] = (),
    bounded: bool = True,
    on_stage: Callable[[str, float], None] = lambda _stage, _share: None,
) -> Conversion:
    """Write a model in another format, and compare the result with the source.

    Args:
        source: a GGUF file, or a folder in transformers' layout.
        output: an existing folder; after an error it holds parts.
        precision: of the weights; ``auto`` is bf16 for quantized weights and else the source's own.
        name: name of the model in a GGUF file.
        documents: the folder of the model's licence and card; by default the source, where it is a folder.
        calibration: texts that the rounding of a GGUF file is fitted to.
        bounded: False if the difference is for the caller to judge.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        InputError: the source is unusable.
        UnsupportedError: a part of it can't be converted.
        IntegrityError: the result splits texts into other tokens or, if ``bounded``, answers differently.
    """
    on_stage("reading", 0.0)
    model, tokenizer, own = read_model(source)
    chosen = own if precision == _AUTO else precision
    on_stage("measuring the source", 0.0)
    inputs = measured_inputs(tokenizer, model.config)
    before = run_model(model, inputs)
    samples = calibration_samples(tokenizer, model.config, calibration)
    on_stage("writing", 0.0)
    if target == "gguf":
        write_gguf_model(
            model,
            tokenizer,
            output / GGUF_NAME,
            gguf_precision(chosen),
            name=name,
            license_=_licence(source, documents),
            importance=column_importance(model, samples) if samples else {},
            on_progress=lambda share: on_stage("writing", share),
        )
    else:
        _write_folder(model, tokenizer, source, output, DTYPES[chosen])
    _write_documents(source, documents, output)
    config = model.config
    del model
    gc.collect()  # a large model need not be in memory twice
    on_stage("measuring the result", 0.0)
    difference, clear_tokens = _compared(output / GGUF_NAME if target == "gguf" else output, inputs, config, before)
    if bounded:
        check_difference(difference, bound_of(target, chosen), converted=f"The model in {target} at {chosen}")
    tokens = tuple(tuple(ids.tolist()) for ids in inputs)
    return Conversion(target, chosen, difference, tokens, clear_tokens, len(samples))


def _compared(
    written: Path, inputs: Sequence[torch.Tensor], config: PreTrainedConfig, before: Outputs
) -> tuple[Difference, tuple[int, ...]]:
    """Return the difference of a written model's answers from its source's, and the clear tokens of each text.

    Raises:
        IntegrityError: its tokenizer splits texts into other tokens.
    """
    model, tokenizer, _ = read_model(written)
    check_tokens(inputs, measured_inputs(tokenizer, config))
    after = run_model(model, inputs)
    return compare(before, after), after.clear_tokens


def read_model(source: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Return the model in 32 bits, its tokenizer, and the precision that its weights have or are expanded to.

    Args:
        source: a GGUF file, or a folder in transformers' layout.

    Raises:
        InputError: it can't be read.
        UnsupportedError: it is quantized already, in another format than GGUF.
    """
    if source.is_file():
        header = read_gguf(source)
        kinds = {GGMLQuantizationType(entry.kind) for entry in header.entries if len(entry.shape) > 1}
        own = next((name for name, kind in _GGUF_KINDS.items() if kinds == {kind}), "bf16")
        return load_gguf_model(source, dtype=torch.float32), load_gguf_tokenizer(header), own
    check_base_model(source)
    if is_packed(source):
        raise UnsupportedError(
            f"{str(source)!r} is quantized already, and would lose more by being rounded again.",
            hint="Take the unquantized model.",
        )
    model = load_model(source, dtype=torch.float32)
    kept = {entry.dtype for path in source.glob("*.safetensors") for entry in read_tensors(path)}
    own = next((name for name, dtype in _SAFETENSORS_DTYPES.items() if kept == {dtype}), "bf16")
    return model.eval(), load_tokenizer(source), own


def _write_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Path, output: Path, dtype: torch.dtype
) -> None:
    model.to(dtype).config.use_cache = True
    quiet_libraries()  # saving imports DeepSpeed
    model.save_pretrained(str(output))
    _write_tokenizer(tokenizer, source, output)


def write_companions(
    tokenizer: PreTrainedTokenizerBase, source: Path, output: Path, documents: Path | None = None
) -> None:
    """Write the files beside a model's weights and configuration: its tokenizer, licence and card.

    Args:
        source: a GGUF file, or a folder in transformers' layout.
        output: an existing folder.
        documents: the folder of the model's licence and card; by default the source, where it is a folder.
    """
    _write_tokenizer(tokenizer, source, output)
    _write_documents(source, documents, output)


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, source: Path, output: Path) -> None:
    if source.is_file():
        # Named templates go into tokenizer_config.json, so that the folder stays flat.
        tokenizer.save_pretrained(str(output), save_jinja_files=not isinstance(tokenizer.chat_template, dict))
    else:
        copy_companions(source, output)


def copy_companions(source: Path, output: Path) -> None:
    """Copy the files beside a model's weights: its tokenizer, licence and card."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    if (source / NAMED_TEMPLATES).is_dir():
        shutil.copytree(source / NAMED_TEMPLATES, output / NAMED_TEMPLATES)
    _copy_documents(source, output)


def copy_configuration(source: Path, output: Path) -> None:
    """Copy a model's configuration, and that of its answers."""
    for name in _CONFIGURATIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)


def _copy_documents(source: Path, output: Path) -> None:
    for pattern in _DOCUMENTS:
        for path in source.glob(pattern):
            shutil.copyfile(path, output / path.name)


def _licence(source: Path, documents: Path | None) -> str:
    """Return the licence that a model's card, else its GGUF file, names; empty where neither does."""
    folder = documents or (source if source.is_dir() else None)
    named = find_licence(folder, [path.name for path in folder.iterdir()]) if folder else ""
    return named or (find_licence(source.parent, [source.name]) if source.is_file() else "")


def _write_documents(source: Path, documents: Path | None, output: Path) -> None:
    """Copy the licence and card of the source; write a card where only its GGUF file names the licence."""
    if folder := documents or (source if source.is_dir() else None):
        _copy_documents(folder, output)
    if source.is_dir() or (output / "README.md").exists():
        return
    said = card_of_gguf(read_gguf(source).facts)
    kept = {name: said[name] for name in _CARD_FACTS if name in said}
    if "languages" in said:
        kept["language"] = said["languages"]
    if "license" in kept and not any(output.glob("*.gguf")):
        head = yaml.safe_dump(kept, allow_unicode=True, sort_keys=False)
        title = str(said.get("name", source.stem)).replace("\n", " ")
        (output / "README.md").write_text(f"---\n{head}---\n# {title}\n", encoding="utf-8")


def check_tokens(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> None:
    """Check that the tokenizer that was written splits the measured texts as the source's does.

    Raises:
        IntegrityError: it does not.
    """
    for one, other in zip(expected, found, strict=True):
        if not torch.equal(one, other):
            raise IntegrityError(
                f"The converted tokenizer makes {other[:8].tolist()}... of a text of which the source's makes "
                f"{one[:8].tolist()}...",
                hint="Nothing was written. Report it as a fault of ours, with the tokenizer's files.",
            )
