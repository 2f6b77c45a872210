"""Choose how a model is served: by short trials on this machine, by prediction from a table for other devices."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert.gguf_model import gguf_config, read_tensor
from llamafarm_ray.models.folder import gguf_file, weight_formats
from llamafarm_ray.models.packed_files import is_packed
from llamafarm_ray.models.processor import cpu_has_bf16
from llamafarm_ray.registry import BaseModel, RegistryApi, VersionRecord
from llamafarm_ray.serving.optimize.devices import THIS_MACHINE, Device, find_device, read_devices
from llamafarm_ray.serving.optimize.forms import Settings, makeable_forms, serves, settings_here, settings_on
from llamafarm_ray.serving.optimize.halving import Trial
from llamafarm_ray.serving.optimize.options import Axis, axes_of, spelled
from llamafarm_ray.serving.optimize.predict import Form, Prediction, predict
from llamafarm_ray.serving.optimize.speed import Speed, SpeedEngine, SpeedTrial, measure_speed
from llamafarm_ray.serving.optimize.tuning import find_fastest
from llamafarm_ray.storage.copying import check_output
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.training.estimate import ModelShape
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.inspection.base import servable_base

__all__ = ["MAX_TRIALS", "Optimized", "optimize", "write_config"]

MAX_TRIALS = 8
"""Forms, engines and precisions that are tried on this machine, at most: one of each form first."""

_PROMPT_TOKENS = 128
_CONTEXT = 4096
"""Tokens that memory is set aside for on another device, if nothing is said; the model's context if that is less."""
_MIN_QUALITY = 0.99
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Measure = Callable[[SpeedTrial], Speed]


@dataclass(frozen=True, slots=True)
class _Load:
    """Answers at the same time, and the tokens of a prompt with its answer."""

    concurrency: int
    max_model_len: int | None


@dataclass(frozen=True, slots=True)
class Optimized:
    """The chosen settings.

    Attributes:
        target: this machine, or a device of the table.
        is_measured: False if all numbers are predicted.
        config: a configuration for `deploy`: ``base_model`` and ``deployment``.
        tokens_per_s: of all answers that are written at the same time.
        first_token_s: seconds to the first token; ``None`` on this machine, whose trials are for the rate.
        trials: rows of tried and predicted settings, the best first.
    """

    target: str
    is_measured: bool
    config: dict[str, Any]
    tokens_per_s: float
    first_token_s: float | None
    trials: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def optimize(
    registry: RegistryApi,
    model: str,
    *,
    target: str = THIS_MACHINE,
    concurrency: int = 1,
    max_model_len: int | None = None,
    min_quality: float = _MIN_QUALITY,
    measure: Measure = measure_speed,
    on_trial: Callable[[str], None] = lambda _text: None,
) -> Optimized:
    """Choose form, engine and settings for a model, and return the configuration that `deploy` takes.

    Forms are the model itself and its versions of kind ``quantized`` in the registry whose recorded quality is enough.

    Args:
        registry: registry for names and quantized versions.
        model: a folder, GGUF file or name.
        target: ``this-machine``, or a device of the table.
        concurrency: answers that are written at the same time, for which the rate is made largest.
        max_model_len: the longest prompt with its answer, in tokens.
        on_trial: called with a sentence before each trial.

    Raises:
        InputError: the model or the target is unusable, or no form fits on the target.
        UnsupportedError: no engine here serves the model.
    """
    if concurrency < 1:
        raise InputError(f"The concurrency is {concurrency}.", hint="Say 1 or more.")
    device = None if target == THIS_MACHINE else find_device(target)
    load = _Load(concurrency, max_model_len)
    base = servable_base(model, registry)
    dtype = device.dtype if device else "bfloat16" if torch.cuda.is_available() else "float32"
    forms = [_form(base, dtype), *_quantized(registry, base, min_quality)]
    if device is None:
        return _on_this_machine(registry, forms, load, measure=measure, on_trial=on_trial)
    return _predicted(registry, forms, load, target=target, device=device)


def write_config(made: Optimized, path: Path, *, overwrite: bool) -> None:
    """Write the configuration as YAML.

    Raises:
        ConflictError: ``path`` is taken.
    """
    check_output(path, overwrite=overwrite)
    path.write_text(yaml.safe_dump(made.config, sort_keys=False), encoding="utf-8")


def _form(base: BaseModel, dtype: str, *, scheme: str = "", quality: float = 1.0) -> Form:
    is_gguf = weight_formats(base.folder)[:1] == ("gguf",)
    scheme = scheme or ("quantized" if is_packed(base.folder) else "")
    shape = _shape(base)
    if is_gguf:
        size = gguf_file(base.folder).stat().st_size
    elif scheme:
        size = sum(path.stat().st_size for path in base.folder.glob("*.safetensors"))
    else:
        size = shape.num_parameters * _DTYPE_BYTES[dtype]
    token_bytes = 2 * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    return Form(base.reference, scheme, is_gguf, shape.num_parameters, size, token_bytes, quality)


def _shape(base: BaseModel) -> ModelShape:
    if weight_formats(base.folder)[:1] != ("gguf",):
        return ModelShape.of_folder(base.folder)
    path = gguf_file(base.folder)
    config = gguf_config(read_gguf(path), lambda entry: read_tensor(path, entry), shown=str(path))
    return ModelShape.of_config(config.to_dict(), base.name)


def _quantized(registry: RegistryApi, base: BaseModel, min_quality: float) -> Iterator[Form]:
    """Yield the model's registered quantized versions that are good enough."""
    for record in registry.refresh().versions():
        facts = record.registered
        if facts.kind is not ModelKind.QUANTIZED or record.retired is not None:
            continue
        if base.digest not in {facts.base_digest, *facts.derived_from}:
            continue
        quality = _quality(record)
        if quality is not None and quality >= min_quality:
            scheme = str(facts.parameters.get("scheme") or facts.parameters.get("precision") or "quantized")
            found = servable_base(record.ref, registry)
            if weight_formats(found.folder)[:1] in {("safetensors",), ("gguf",)}:  # speed is not measured in others
                yield _form(found, "float32", scheme=scheme, quality=quality)


def _quality(record: VersionRecord) -> float | None:
    said = record.registered.parameters
    difference = said.get("difference")
    if isinstance(quality := said.get("quality"), float):
        return quality
    mean_kl = difference.get("mean_kl") if isinstance(difference, dict) else None
    return math.exp(-mean_kl) if isinstance(mean_kl, int | float) else None


def _on_this_machine(
    registry: RegistryApi, forms: Sequence[Form], load: _Load, *, measure: Measure, on_trial: Callable[[str], None]
) -> Optimized:
    arms = _arms(registry, forms, load.concurrency)
    paths = {form: servable_base(form.reference, registry).folder for form in forms}

    def speed(arm: Settings, length: int) -> Speed:
        on_trial(f"{_words(arm)}, answers of {length} tokens")
        path = paths[arm.form]
        return measure(
            SpeedTrial(
                str(gguf_file(path) if arm.engine == "gguf" else path),
                arm.engine,
                num_threads=arm.num_threads,
                dtype=arm.dtype,
                num_parallel=load.concurrency,
                prompt_tokens=_PROMPT_TOKENS,
                new_tokens=length,
                options=arm.options,
            )
        )

    def axes(engine: SpeedEngine) -> Sequence[Axis]:
        return axes_of(engine, cores=_cores(), has_gpu=torch.cuda.is_available())

    found = find_fastest(arms, axes, speed)
    chosen = found.settings
    if found.tokens_per_s is None:
        reasons = "; ".join(f"{_words(trial.arm)}: {trial.error}" for trial in found.trials)
        raise UnsupportedError(f"No engine on this machine serves it. {reasons}")
    config = _config(chosen, load.max_model_len, gpu=1 if torch.cuda.is_available() else None)
    rows = tuple(_trial_row(trial, chosen) for trial in found.trials)
    return Optimized(THIS_MACHINE, True, config, found.tokens_per_s, None, rows, _notes(chosen))


def _notes(chosen: Settings) -> tuple[str, ...]:
    if {"cache_type", "kv_cache_dtype"}.isdisjoint(dict(chosen.options)):
        return ()
    return ("Keys and values have 8 bits. Their speed was measured, and not their answers: evaluate the deployment.",)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _arms(registry: RegistryApi, forms: Sequence[Form], concurrency: int) -> list[Settings]:
    """Return the settings to try, at most `MAX_TRIALS`: one of each form first, by the size of weights."""
    installed = {"vllm": "vllm", "xllamacpp": "gguf"}
    engines = frozenset(engine for module, engine in installed.items() if importlib.util.find_spec(module))
    ranked = [
        (place, arm)
        for form in sorted(forms, key=lambda one: one.weight_bytes)
        for place, arm in enumerate(
            settings_here(
                form,
                servable_base(form.reference, registry).folder,
                cores=_cores(),
                has_gpu=torch.cuda.is_available(),
                has_bf16=cpu_has_bf16(),
                concurrency=concurrency,
                engines=engines,
            )
        )
    ]
    arms = [arm for _, arm in sorted(ranked, key=lambda one: one[0])]
    if not arms:
        raise UnsupportedError("No engine that is installed serves it.", hint="pip install 'llamafarm_ray[gguf]'")
    return arms[:MAX_TRIALS]


def _predicted(registry: RegistryApi, forms: Sequence[Form], load: _Load, *, target: str, device: Device) -> Optimized:
    table, model, concurrency = read_devices(), forms[0].reference, load.concurrency
    longest = load.max_model_len or min(_CONTEXT, _context(registry, forms[0]) or _CONTEXT)
    prompt = min(_PROMPT_TOKENS, longest)

    def of(form: Form) -> Prediction:
        return predict(form, device, table, concurrency=concurrency, max_model_len=longest, prompt_tokens=prompt)

    here = [form for form in forms if serves(device, form, servable_base(form.reference, registry).folder)]
    found = sorted((of(form) for form in here), key=lambda one: (not one.fits, -one.tokens_per_s))
    notes = [f"Predicted from the data sheet of {device.name}, not measured: expect to be off by half."]
    if not any(one.fits for one in found):
        made = [of(form) for form in makeable_forms(device, forms[0]) if not (forms[0].is_gguf or forms[0].scheme)]
        found = [*(one for one in made if one.fits), *found, *(one for one in made if not one.fits)]
        if not found:
            raise InputError(
                f"No engine serves the files of {model!r} on {device.name}.",
                hint="Name the model in safetensors, from which other forms can be made.",
            )
        if not found[0].fits:
            least = min(one.memory_bytes for one in found) / 2**30
            raise InputError(
                f"No form of {model!r} fits on {device.name}: the smallest needs {least:.1f} GiB of "
                f"{device.memory_gib:g}.",
                hint="Ask for a smaller --max-model-len or --concurrency, or choose a larger device.",
            )
        scheme = found[0].form.scheme
        command = f"llamafarm models quantize {model} --scheme {scheme} --output {scheme}"
        notes.append(f"Make that form first, which measures its quality: `{command}`.")
    best = found[0]
    settings = settings_on(best.form, device, concurrency, has_small_cache=best.has_small_cache)
    if best.has_small_cache:
        notes.append("Keys and values have 8 bits, since they do not fit in 16. Evaluate the deployment.")
    config = _config(settings, longest, gpu=f"1x_{device.gpu}" if device.gpu else None)
    rows = tuple(_prediction_row(one) for one in found)
    return Optimized(target, False, config, best.tokens_per_s, best.first_token_s, rows, tuple(notes))


def _context(registry: RegistryApi, form: Form) -> int | None:
    return _shape(servable_base(form.reference, registry)).max_positions


def _config(settings: Settings, max_model_len: int | None, gpu: str | int | None = None) -> dict[str, object]:
    """Return a configuration, which was read as `deploy` reads it."""
    config: dict[str, object] = {
        "base_model": settings.form.reference or f"./{settings.form.scheme}",
        "deployment": settings.deployment(max_model_len=max_model_len, gpu=gpu),
    }
    parse_config(config)
    return config


def _words(arm: Settings) -> str:
    form = arm.form.scheme or ("GGUF" if arm.form.is_gguf else "unquantized")
    threads = f"{arm.num_threads} threads" if arm.num_threads else ""
    return ", ".join(
        part for part in (f"{form} in engine {arm.engine}", arm.dtype or "", threads, spelled(arm.options)) if part
    )


def _trial_row(trial: Trial[Settings], chosen: Settings) -> dict[str, object]:
    arm = trial.arm
    return {
        "model": arm.form.reference,
        "form": arm.form.scheme or ("gguf" if arm.form.is_gguf else "unquantized"),
        "engine": arm.engine,
        "dtype": arm.dtype,
        "threads": arm.num_threads,
        "options": dict(arm.options),
        "answer_tokens": trial.length,
        "tokens_per_s": trial.score,
        "is_chosen": arm == chosen,
        "error": trial.error,
    }


def _prediction_row(one: Prediction) -> dict[str, object]:
    return {
        "model": one.form.reference,
        "form": one.form.scheme or ("gguf" if one.form.is_gguf else "unquantized"),
        "memory_bytes": one.memory_bytes,
        "fits": one.fits,
        "cache_bits": 8 if one.has_small_cache else 16,
        "tokens_per_s": one.tokens_per_s,
        "first_token_s": one.first_token_s,
    }
