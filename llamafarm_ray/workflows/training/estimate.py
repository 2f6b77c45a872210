"""Estimate of a configured run: memory, time, cost, and alternatives that fit. Starts and fetches nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llamafarm_ray.config import LORA_METHODS, STRATEGIES, Config
from llamafarm_ray.errors import InputError, LlamaFarmError, NotFoundError, UnsupportedError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.storage.downloads.providers.spelling import is_source
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.estimate import (
    Alternative,
    DurationEstimate,
    Machine,
    MemoryEstimate,
    ModelShape,
    Option,
    Setup,
    Tables,
    estimate_duration,
    estimate_memory,
    find_alternatives,
    read_tables,
    recommend,
    verdict,
)
from llamafarm_ray.training.plan.epochs import with_epochs_and_batch_size
from llamafarm_ray.training.plan.layers import upper_blocks
from llamafarm_ray.types import MODEL_NAME, Digest, ModelRef

__all__ = ["RunEstimate", "estimate_run", "find_shape", "try_estimate"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIZE_IN_NAME = re.compile(r"(?:^|[-_/])(\d+(?:\.\d+)?[bm])(?:$|[-_.])", re.IGNORECASE)
_EXPERTS_IN_NAME = re.compile(r"(?:^|[-_/])(?:a\d+(?:\.\d+)?b|\d+x\d+(?:\.\d+)?b)(?:$|[-_.])", re.IGNORECASE)
"""Active parameters (``30B-A3B``), or a number of experts (``8x7b``)."""
_PRICED_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """A run, and its memory, time and cost.

    Args:
        memory: of each worker's device.
        verdict: ``fits``, ``tight`` (within what estimates may be off by) or ``too large``.
        duration: of all epochs; of a million tokens where the number of rows is not known.
        num_rows: training rows; None where unknown.
        alternatives: setups that fit, where this does not.
        options: every method and strategy that fits, the fastest first; where they were asked for.
    """

    shape: ModelShape
    setup: Setup
    machine: Machine
    memory: MemoryEstimate
    verdict: str
    duration: DurationEstimate
    num_rows: int | None
    alternatives: list[Alternative]
    options: list[Option]
    notes: list[str]

    def to_dict(self) -> dict[str, object]:
        """For JSON; bytes, seconds and US dollars."""
        setup = self.setup
        return {
            "base_model": self.shape.name,
            "num_parameters": self.shape.num_parameters,
            "method": setup.method,
            "strategy": setup.strategy,
            "offload": setup.offload,
            "num_workers": setup.num_workers,
            "precision": setup.precision,
            "batch_size": setup.batch_size,
            "max_length": setup.max_length,
            "gradient_checkpointing": setup.gradient_checkpointing,
            "device": self.machine.name,
            "device_memory": self.machine.memory_bytes,
            "memory": self.memory.to_dict(),
            "verdict": self.verdict,
            "num_rows": self.num_rows,
            **self.duration.to_dict(),
            "alternatives": [
                {"changes": other.changes, "memory": other.memory.to_dict()} for other in self.alternatives
            ],
            "options": [option.to_dict() for option in self.options],
            "notes": self.notes,
        }


def estimate_run(
    config: Config,
    open_registry: Callable[[], RegistryApi],
    *,
    gpu: str | None = None,
    num_rows: int | None = None,
    prices: Path | None = None,
    all_options: bool = False,
) -> RunEstimate:
    """Estimate the training that a configuration describes.

    Args:
        config: ``base_model``, which may also be a size such as ``7b``; ``fine_tuning`` and, for the number of rows,
            ``dataset.path``.
        open_registry: called where ``base_model`` is no folder and no size.
        gpu: a device of the tables; this machine if None.
        num_rows: training rows; counted in ``dataset.path`` if None.
        prices: a file laid over the tables.
        all_options: True to try every method and strategy.

    Raises:
        UserError: the model, the device or the prices are unusable, or the requested settings can't be combined.
    """
    tables, notes = read_tables(prices), list[str]()
    shape = find_shape(config.base_model, tables, open_registry, notes)
    counted, passes = _count_rows(config.dataset.path)
    rows = counted if num_rows is None else num_rows
    tuning, training = config.fine_tuning, _decided(config, rows, passes)
    num_workers = tuning.distributed.num_workers or 1
    machine = Machine.of_table(gpu, num_workers, tables) if gpu else Machine.this_one(num_workers, tables)
    max_length = min(training.max_length or config.dataset.preprocessing.max_length, shape.max_positions or 2**31)
    setup = Setup.of_config(
        method="lora" if tuning.method == "auto" else tuning.method,
        parameters=tuning.parameters,
        training=training,
        distributed=tuning.distributed,
        strategy=_plain_strategy(str(tuning.distributed.strategy), num_workers),
        num_workers=num_workers,
        precision=_precision(training.precision, machine),
        max_length=max_length,
        device=machine.kind,
        packed=training.padding_free is not False and tuning.method != "prefix_tuning",
    )
    setup = _with_upper_blocks(_decide(shape, setup, machine, config, notes), shape, passes, notes)
    num_tokens = _PRICED_TOKENS if rows is None else _tokens_of_run(training, setup, rows)
    notes += _assumptions(machine, max_length, rows)
    memory = estimate_memory(shape, setup)
    found = verdict(memory, machine.memory_bytes)
    return RunEstimate(
        shape=shape,
        setup=setup,
        machine=machine,
        memory=memory,
        verdict=found,
        duration=estimate_duration(shape, setup, machine, tables, num_tokens=num_tokens),
        num_rows=rows,
        alternatives=find_alternatives(shape, setup, machine.memory_bytes) if found == "too large" else [],
        options=recommend(shape, setup, machine, tables, num_tokens=num_tokens) if all_options else [],
        notes=notes,
    )


def _with_upper_blocks(setup: Setup, shape: ModelShape, passes: int, notes: list[str]) -> Setup:
    """Return the setup with the blocks that `train` would adapt."""
    upper = upper_blocks(
        setup.method,
        setup.parameters,
        blocks=shape.num_layers,
        passes=passes,
        on_gpu=setup.device == "cuda",
        checkpointing=setup.gradient_checkpointing,
    )
    if upper is None:
        return setup
    notes.append(f"The {len(upper)} upper of {shape.num_layers} blocks are adapted, as on every machine without a GPU.")
    parameters = setup.parameters.model_copy(update={"layers_to_transform": upper})
    return dataclasses.replace(setup, parameters=parameters)


def _precision(asked: str, machine: Machine) -> str:
    """Return the number format that a run computes in, where ``auto`` is the machine's best."""
    if asked != "auto":
        return asked
    return "bf16" if machine.has_bf16 else "fp16" if machine.kind == "cuda" else "fp32"


def _assumptions(machine: Machine, max_length: int, num_rows: int | None) -> Iterator[str]:
    """Yield what time and cost rest on."""
    yield f"Time: {machine.assumption}; rows are counted as {max_length} tokens each, so shorter ones take less."
    if num_rows is None:
        yield "The number of rows is not known (--rows): time and cost are those of a million tokens."
    if machine.price_note:
        yield f"Prices: {machine.price_note}. They change: look them up before you rely on them."


def try_estimate(config: Config, open_registry: Callable[[], RegistryApi]) -> RunEstimate | str:
    """The estimate of a run on this machine, or the reason why there is none: for ``train --dry-run``."""
    try:
        return estimate_run(config, open_registry)
    except LlamaFarmError as error:
        return str(error)


def find_shape(
    reference: str | None, tables: Tables, open_registry: Callable[[], RegistryApi], notes: list[str]
) -> ModelShape:
    """The shape of a base model: from a folder, a size, the registry, or the size in a hub id's name. Fetches nothing.

    Raises:
        InputError: there is no reference, or the model that it names has no usable config.json.
        NotFoundError: nothing is known of it.
        UnsupportedError: it is a mixture of experts.
    """
    if not reference:
        raise InputError("base_model is not set.", hint="Give a folder, a registered model or a size such as 7b.")
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return ModelShape.of_folder(folder)
    if (sized := ModelShape.of_size(reference, tables)) is not None:
        return sized
    name = re.fullmatch(rf"({MODEL_NAME})(?:[:@].*)?", reference) if "://" not in reference else None
    if name or is_source(reference):
        registry = open_registry()
        if name and name[1] in registry.refresh().models:
            return _registered(registry, ModelRef.parse(reference))
        if (fetched := registry.content.downloads.folder(reference)) and (fetched / "config.json").is_file():
            return ModelShape.of_folder(fetched)
    if _EXPERTS_IN_NAME.search(reference):
        raise UnsupportedError(
            f"{reference} is a mixture of experts by its name, and its memory can't be estimated from that.",
            hint="Estimates know decoder-only models with one feed-forward network a block.",
        )
    if _HUB_ID.fullmatch(reference) and (match := _SIZE_IN_NAME.search(reference)):
        sized = ModelShape.of_size(match[1], tables)
        if sized is not None:
            notes.append(f"{reference} is not on this machine: its shape is taken from its name.")
            return replace(sized, name=f"{reference} ({sized.name})")
    raise NotFoundError(
        f"There is no folder and no registered model {reference!r} to estimate.",
        hint="Give a folder, a registered model or a size such as 7b.",
    )


def _registered(registry: RegistryApi, ref: ModelRef) -> ModelShape:
    """Reads config.json alone."""
    manifest = registry.content.manifest(Digest(registry.resolve(ref).registered.manifest))
    entry = next((entry for entry in manifest.files if entry.path == "config.json"), None)
    if entry is None:
        raise InputError(f"{ref} has no config.json, so it is no base model.", hint="Is it an adapter?")
    try:
        config = json.loads(registry.content.read_blob(entry.digest))
    except ValueError as error:
        raise InputError(f"The config.json of {ref} can't be read: {error}") from error
    return ModelShape.of_config(config, str(ref))


def _plain_strategy(strategy: str, num_workers: int) -> str:
    if strategy != "auto":
        return strategy
    return "single" if num_workers == 1 else "ddp"


def _decide(shape: ModelShape, setup: Setup, machine: Machine, config: Config, notes: list[str]) -> Setup:
    """Return the setup with open settings filled in: the plainest that fits."""
    tuning = config.fine_tuning
    methods = LORA_METHODS if tuning.method == "auto" else (setup.method,)
    strategies = [setup.strategy]
    if tuning.distributed.strategy == "auto" and setup.num_workers > 1:
        strategies = [name for name in STRATEGIES[1:] if name != "deepspeed_zero1"]
    candidates = [
        replace(setup, method=method, strategy=strategy)
        for method in methods
        for strategy in strategies
        if (method, strategy) != ("qlora", "deepspeed_zero3")
    ]
    if not candidates:
        return setup  # its memory is refused with the reason
    fitting = (run for run in candidates if verdict(estimate_memory(shape, run), machine.memory_bytes) == "fits")
    chosen = next(fitting, candidates[0])
    if len(candidates) > 1:
        left = [
            key
            for key, value in (("method", tuning.method), ("strategy", tuning.distributed.strategy))
            if value == "auto"
        ]
        notes.append(f"{' and '.join(left)}: auto; estimated with {chosen.method} and {chosen.strategy}.")
    return chosen


def _decided(config: Config, num_rows: int | None, passes: int) -> DecidedTraining:
    """Return the settings of the loop, decided for a number of rows; None is many. The learning rate has no effect."""
    training = config.fine_tuning.training
    many = sys.maxsize if num_rows is None else num_rows
    decided = with_epochs_and_batch_size(training, objective=config.fine_tuning.objective, num_rows=many, passes=passes)
    return DecidedTraining.model_validate(decided.model_dump(exclude_unset=True, exclude={"learning_rate"}))


def _tokens_of_run(training: DecidedTraining, setup: Setup, num_rows: int) -> int:
    """Rows of all epochs, or of ``max_steps`` steps, at full length."""
    rows = math.ceil(num_rows * training.epochs)
    if training.max_steps is not None:
        a_step = setup.batch_size * setup.gradient_accumulation_steps * setup.num_workers
        rows = training.max_steps * a_step
    return rows * setup.max_length


def _count_rows(dataset: str | None) -> tuple[int | None, int]:
    """Return the number of training records of a dataset on this machine, None if it can't be read, and its passes."""
    if dataset is None:
        return None, 1
    from llamafarm_ray.data.reading import describe_built, is_built  # pyarrow, which few estimates need
    from llamafarm_ray.data.records import find_records, read_records

    path = Path(dataset).expanduser()
    try:
        if is_built(path):
            built = describe_built(path)
            return built.num_rows["train"], built.passes
        return sum(1 for _ in read_records(find_records(path)["train"])), 1
    except (LlamaFarmError, OSError):
        return None, 1
