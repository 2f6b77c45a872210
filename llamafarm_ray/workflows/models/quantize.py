"""Quantize a model by one scheme, or by the one that measurements on this machine choose."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from llamafarm_ray.errors import InputError, LlamaFarmError, UnsupportedError
from llamafarm_ray.models.chat import render_chat
from llamafarm_ray.models.convert.calibration import MAX_SAMPLES
from llamafarm_ray.models.convert.conversion import GGUF_NAME
from llamafarm_ray.models.quantize.front import Candidate, choose, on_front
from llamafarm_ray.models.quantize.quality import Budget, quality
from llamafarm_ray.models.quantize.quantization import (
    Quantization,
    check_calibration,
    quantize_model,
)
from llamafarm_ray.models.quantize.schemes import AUTO, Device, Scheme, find_scheme, servable_here
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.serving.optimize.speed import Speed, SpeedEngine, SpeedTrial, measure_speed
from llamafarm_ray.workflows.datasets.sample import sample
from llamafarm_ray.workflows.inspection.model_source import ModelSource, opened_model
from llamafarm_ray.workflows.models.convert import write_conversion
from llamafarm_ray.workflows.models.llama_cpp import check_in_llama_cpp, has_llama_cpp
from llamafarm_ray.workflows.models.parents import new_folder, write_record

__all__ = ["DEFAULT_BUDGET", "RECORD_NAME", "Keep", "QuantizedModel", "Tried", "quantize"]

RECORD_NAME = "quantization.json"
"""The record beside a quantized model: source, tools, differences, what else was tried."""

DEFAULT_BUDGET = "quality>=0.99"
"""The budget of scheme ``auto``."""

Keep = Literal["best", "front"]
"""Results of ``auto`` that are kept: the chosen one, or the Pareto front within the budget."""

Measure = Callable[[SpeedTrial], Speed]
Stage = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """A scheme that was tried.

    Attributes:
        engine: the engine that its speed was measured in; empty if none was.
        quality: see `llamafarm_ray.models.quantize.quality`.
        difference: from the source, by name.
        first_token_s: seconds to the first token of an answer.
        tokens_per_s: tokens a second after it.
        is_on_front: True if none that was tried is better in size, quality or speed and as good in the others.
        is_chosen: True for the best within the budget.
        is_kept: True for those that were written.
        error: the reason why it can't be had; the numbers are zero then.
    """

    scheme: str
    engine: str = ""
    quality: float = 0.0
    difference: dict[str, Any] = field(default_factory=dict)
    size_bytes: int = 0
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    is_on_front: bool = False
    is_chosen: bool = False
    is_kept: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """A quantized model.

    Attributes:
        path: its folder; one with a folder for each kept scheme, if the front was asked for.
        source: source of the quantization, as it was asked for.
        source_digest: the digest of its files.
        num_samples: texts that the rounding was fitted to.
        tried: all that were measured; the chosen one alone where a scheme was named.
        keep: results that were kept.
    """

    path: Path
    source: str
    source_digest: str
    source_bytes: int
    scheme: str
    num_samples: int
    tried: tuple[Tried, ...]
    notes: tuple[str, ...] = ()
    keep: Keep = "best"

    @property
    def chosen(self) -> Tried:
        """The measurements of the written form."""
        return next(one for one in self.tried if one.is_chosen)

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each scheme that was kept."""
        if self.keep == "best":
            return {self.scheme: self.path}
        return {one.scheme: self.path / one.scheme for one in self.tried if one.is_kept}


def quantize(
    registry: RegistryApi,
    model: str,
    output: Path,
    *,
    scheme: str = AUTO,
    budget: str | None = None,
    calibration: Path | None = None,
    keep: Keep = "best",
    overwrite: bool = False,
    measure: Measure | None = measure_speed,
    on_stage: Stage = lambda _stage, _share: None,
) -> QuantizedModel:
    """Quantize, measure, and leave a folder that `register` takes as kind ``quantized``.

    Args:
        registry: registry for names.
        model: a folder, GGUF file, wheel or zip file, or name.
        output: the folder to write.
        scheme: a scheme's name, or ``auto``.
        budget: conditions such as ``quality>=0.99``; without one, that of `DEFAULT_BUDGET` for ``auto``, and else the
            bound of the scheme.
        calibration: a dataset whose texts the rounding is fitted to, where the scheme can be.
        keep: of scheme ``auto``: ``front`` keeps each result of the Pareto front within the budget, in a folder of
            its scheme's name below ``output``.
        measure: measures speed; ``None``: it is not measured.
        on_stage: called with the name of a stage, and the share of it that is done.

    Raises:
        ConflictError: ``output`` is taken.
        InputError: the source, the dataset, the budget or the scheme is unusable, or nothing tried meets the budget.
        UnsupportedError: the scheme can't hold the model, or ``auto`` finds no engine here.
        IntegrityError: without a budget: the result differs from the source by more than the scheme may cost.
    """
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    is_auto = scheme.lower() == AUTO
    schemes = servable_here(device) if is_auto else [_one_scheme(scheme, calibration)]
    goal = Budget.parse(budget or DEFAULT_BUDGET) if budget or is_auto else None
    if keep == "front" and not is_auto:
        raise InputError(f"Scheme {scheme} alone has no Pareto front to keep.", hint="Leave out --scheme or --keep.")
    with new_folder(output, overwrite=overwrite) as folder, opened_model(registry, model, folder.parent) as source:
        texts = _texts(calibration, source) if calibration else ()
        trials = _Trials(folder, source, texts, device, goal, measure, on_stage)
        tried, failed = trials.each(schemes) if is_auto else ([trials.one(folder, schemes[0])], [])
        chosen, rows = _chosen(tried, goal, failed, keep)
        if is_auto:
            _keep(folder, [row.scheme for row in rows if row.is_kept], keep)
        for _, made, row in tried:
            kept = next(one for one in rows if one.scheme == row.scheme)
            if kept.is_kept:
                _write_records(folder / kept.scheme if keep == "front" else folder, source, made, kept, rows)
        notes = _notes(chosen.scheme, device)
    return QuantizedModel(
        output, model, source.digest, chosen.source_bytes, chosen.scheme.name, chosen.num_samples, rows, notes, keep
    )


_Made = tuple[Scheme, Quantization, Tried]


@dataclass(frozen=True, slots=True)
class _Trials:
    """Quantizations of one model, each measured."""

    folder: Path
    source: ModelSource
    texts: Sequence[str]
    device: Device
    budget: Budget | None
    measure: Measure | None
    on_stage: Stage

    def each(self, schemes: Sequence[Scheme]) -> tuple[list[_Made], list[Tried]]:
        """Try all schemes, each in a folder of its own. Returns those that were made, and those that failed."""
        made: list[_Made] = []
        failed: list[Tried] = []
        for scheme in schemes:
            part = self.folder / scheme.name
            part.mkdir(exist_ok=True)
            try:
                made.append(self.one(part, scheme))
            except LlamaFarmError as error:
                failed.append(Tried(scheme.name, error=error.message))
                shutil.rmtree(part)
        return made, failed

    def one(self, folder: Path, scheme: Scheme) -> _Made:
        """Quantize by one scheme into a folder, and measure the speed."""
        texts = self.texts if scheme.takes_calibration else ()
        made = _one(folder, self.source, scheme, texts, budget=self.budget, on_stage=self.on_stage)
        speed = _speed(folder, scheme, self.device, self.measure, self.on_stage)
        return scheme, made, _tried(made, _engine(scheme, self.device), speed)


def _one_scheme(name: str, calibration: Path | None) -> Scheme:
    scheme = find_scheme(name)
    check_calibration(scheme, calibration=calibration is not None)
    return scheme


def _one(
    folder: Path,
    source: ModelSource,
    scheme: Scheme,
    texts: Sequence[str],
    *,
    budget: Budget | None,
    on_stage: Stage,
) -> Quantization:
    def staged(stage: str, share: float) -> None:
        on_stage(f"{scheme.name}: {stage}", share)

    made = quantize_model(
        source.path,
        folder,
        scheme,
        name=source.name,
        documents=source.documents,
        calibration=texts,
        budget=budget,
        on_stage=staged,
    )
    if scheme.family == "gguf" and has_llama_cpp():
        staged("reading it in llama.cpp", 0.0)
        check_in_llama_cpp(folder / GGUF_NAME, made.inputs, made.next_tokens)
    return made


def _engine(scheme: Scheme, device: Device) -> SpeedEngine:
    if scheme.family == "gguf":
        return "gguf"
    return "vllm" if device in scheme.vllm_on else "transformers"


def _speed(folder: Path, scheme: Scheme, device: Device, measure: Measure | None, on_stage: Stage) -> Speed | None:
    if measure is None or (scheme.family == "gguf" and not has_llama_cpp()):
        return None
    on_stage(f"{scheme.name}: measuring speed", 0.0)
    model = folder / GGUF_NAME if scheme.family == "gguf" else folder
    return measure(SpeedTrial(str(model), _engine(scheme, device)))


def _tried(made: Quantization, engine: SpeedEngine, speed: Speed | None) -> Tried:
    return Tried(
        made.scheme.name,
        engine if speed else "",
        quality(made.difference),
        asdict(made.difference),
        made.size_bytes,
        speed.first_token_s if speed else None,
        speed.tokens_per_s if speed else None,
    )


def _chosen(
    tried: Sequence[_Made], budget: Budget | None, failed: Sequence[Tried], keep: Keep
) -> tuple[Quantization, tuple[Tried, ...]]:
    """Return the best quantized model, and all rows with their marks.

    Raises:
        UnsupportedError: none could be made.
        InputError: none meets the budget; the message has the best.
    """
    if not tried:
        reasons = "; ".join(f"{one.scheme}: {one.error}" for one in failed)
        raise UnsupportedError(
            f"No scheme could be tried on this machine. {reasons}".strip(), hint="Name a scheme with --scheme."
        )
    found = {
        scheme.name: Candidate(scheme.name, made.size_bytes, made.difference, row.tokens_per_s)
        for scheme, made, row in tried
    }
    candidates = list(found.values())
    chosen = choose(candidates, budget) if budget else candidates[0]
    if chosen is None:
        assert budget is not None  # without one, the first is chosen
        best = max(candidates, key=lambda one: quality(one.difference))
        raise InputError(
            f"No scheme meets the budget {budget.spelling!r}. The best is {best.scheme}: "
            f"{budget.shortfall(best.difference)}.",
            hint="Nothing was written. Ask for less, calibrate with --calibration, or name another --scheme.",
        )
    front = {one.scheme for one in on_front(candidates)}
    kept = {chosen.scheme}
    if keep == "front" and budget is not None:
        kept |= {name for name in front if budget.is_met(found[name].difference)}
    rows = [
        replace(
            row,
            is_on_front=scheme.name in front,
            is_chosen=scheme.name == chosen.scheme,
            is_kept=scheme.name in kept,
        )
        for scheme, _, row in tried
    ]
    made = next(made for scheme, made, _ in tried if scheme.name == chosen.scheme)
    return made, (*rows, *failed)


def _keep(folder: Path, names: Sequence[str], keep: Keep) -> None:
    """Remove the forms that are not kept; move the files of the only one to the folder itself, without the front."""
    for path in [path for path in folder.iterdir() if path.is_dir() and path.name not in names]:
        shutil.rmtree(path)
    if keep == "best":
        [name] = names
        for path in list((folder / name).iterdir()):
            path.rename(folder / path.name)
        (folder / name).rmdir()


def _texts(dataset: Path, source: ModelSource) -> list[str]:
    """Return texts of a dataset, conversations as the model's template writes them."""
    tokenizer = load_tokenizer(source.path) if source.path.is_dir() else None
    texts = []
    for row in sample(dataset, count=MAX_SAMPLES, seed=0):
        messages = row.record.get("messages")
        if tokenizer is not None and tokenizer.chat_template and isinstance(messages, list):
            texts.append(render_chat(tokenizer, messages))
        else:
            texts.append("\n".join(text for _, text in row.texts))
    if not texts:
        raise InputError(f"The dataset {dataset} has no rows to calibrate with.", hint="Give one with texts.")
    return texts


def _write_records(folder: Path, source: ModelSource, made: Quantization, own: Tried, rows: Sequence[Tried]) -> None:
    facts = {
        "quantized": source.reference,
        "scheme": made.scheme.name,
        "format": made.scheme.family,
        "quality": own.quality,
        "calibration_samples": made.num_samples,
        "difference": own.difference,
    } | _speed_facts(own)
    record = {
        "source": source.reference,
        "source_digest": source.digest,
        **facts,
        "tried": [asdict(row) for row in rows],
    }
    write_conversion(folder, RECORD_NAME, record)
    lineage = {
        "base_model": source.reference,
        "base_digest": source.digest,
        "derived_from": [source.digest],
        "parameters": facts | {"size_bytes": made.size_bytes, "tried": [_summary(row) for row in rows]},
    }
    write_record(folder, method="", made_by="quantize", lineage=lineage, check=own.difference)


def _speed_facts(row: Tried) -> dict[str, object]:
    if not row.engine:
        return {}
    return {"engine": row.engine, "first_token_s": row.first_token_s, "tokens_per_s": row.tokens_per_s}


def _summary(row: Tried) -> dict[str, object]:
    shown = asdict(row)
    del shown["difference"]
    return shown


def _notes(scheme: Scheme, device: Device) -> tuple[str, ...]:
    notes = []
    if scheme.family == "gguf" and not has_llama_cpp():
        notes.append("llama.cpp is not installed: transformers alone read the file back, and its speed is unknown.")
    if scheme.family == "compressed-tensors" and device not in scheme.vllm_on:
        served = f"On this machine vLLM is not used for {scheme.name}; engine transformers expands the weights"
        notes.append(f"{served} while it loads them. Files are smaller, memory and speed are those of the source.")
    return tuple(notes)
