"""From a configuration, a cluster and the rows to a job: every check and every choice, before a worker starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.data

from llamafarm_ray.config import Config, MethodParameters, Training
from llamafarm_ray.config.fine_tuning import CHANGEABLE_MIDWAY
from llamafarm_ray.errors import UnsupportedError, UserError
from llamafarm_ray.models.chat import check_chat_template
from llamafarm_ray.models.folder import check_base_model, folder_fingerprint
from llamafarm_ray.models.loading import Architecture, inspect_architecture
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.storage import Location
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.estimate import Setup, check_before_start
from llamafarm_ray.training.identity import fingerprint_of
from llamafarm_ray.training.job import RunFolder, TrainingJob
from llamafarm_ray.training.learning_rate import choose_learning_rate
from llamafarm_ray.training.methods import Method, find_method
from llamafarm_ray.training.methods.auto import Hardware, choose_method
from llamafarm_ray.training.objectives import Objective, find_objective
from llamafarm_ray.training.observers import ObserverSettings
from llamafarm_ray.training.resources import WorkerResources, choose_precision, choose_workers, find_hardware
from llamafarm_ray.training.strategies import choose_strategy
from llamafarm_ray.training.token_files import TokenSettings, TokenStore
from llamafarm_ray.training.tokenised import TokenisedData, tokenise

__all__ = ["Plan", "check_inputs", "choose_max_length", "make_plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job, with the data and resources it runs on.

    Args:
        job: what workers do.
        workers: how many there are and what each takes.
        train: tokenised training rows.
        validation: tokenised validation rows, if there are any.
        facts: what decides what is learnt, of which the job's fingerprint is.
        reasons: why things that the configuration left open were chosen so.
    """

    job: TrainingJob
    workers: WorkerResources
    train: TokenisedData
    validation: TokenisedData | None
    facts: dict[str, Any]
    reasons: list[str] = field(default_factory=list)


def make_plan(
    config: Config,
    *,
    train_rows: ray.data.Dataset,
    validation_rows: ray.data.Dataset | None,
    base_model: Path,
    folder: RunFolder,
    lineage: Mapping[str, Any] | None = None,
    fetch_base: Callable[[], Path] | None = None,
    shared: str | None = None,
    tokens: TokenStore | None = None,
) -> Plan:
    """Check everything, tokenise the rows and choose what was left open. The cheapest checks come first.

    Raises:
        UserError: what was asked can't be done; see `train`.
        ClusterError: Ray is not running.
    """
    tuning, training = config.fine_tuning, config.fine_tuning.training
    objective = find_objective(tuning.objective, tuning.objective_settings)
    architecture = check_inputs(config, objective, base_model, has_validation=validation_rows is not None)
    hardware = find_hardware()
    if training.fused_kernels is True and hardware.num_gpus == 0:
        raise UserError(
            "fine_tuning.training.fused_kernels is true, but the cluster has no GPU.", hint="Leave the key at auto."
        )
    workers = choose_workers(tuning.distributed, hardware)
    reasons: list[str] = []
    max_length = choose_max_length(config, architecture, reasons)

    if tokens and sum(node["Alive"] for node in ray.nodes()) > 1:
        reasons.append(f"The tokens in {tokens.folder} are left alone: other nodes may not see them.")
        tokens = None
    settings = tokens and TokenSettings.of(
        base_model, objective, tuning.objective_settings, max_length=max_length, seed=config.seed
    )

    def tokenised(rows: ray.data.Dataset, name: str) -> TokenisedData:
        found = tokens.load(settings, name) if tokens and settings else None
        if found is not None:
            reasons.append(f"The {name} rows were tokenized before: {tokens and tokens.folder}.")
            return found
        if tokens and tokens.has_others():
            reasons.append(
                f"The tokens in {tokens.folder} are not of these {name} rows and settings: new ones are made."
            )
        return tokenise(
            rows,
            base_model=base_model,
            fetch_base=fetch_base,
            objective=objective,
            max_length=max_length,
            seed=config.seed,
            name=name,
        )

    train = tokenised(train_rows, "training")
    validation = tokenised(validation_rows, "validation") if validation_rows is not None else None
    chosen = _choose(
        config,
        hardware=hardware,
        workers=workers,
        architecture=architecture,
        num_rows=train.num_rows,
        max_length=max_length,
        reasons=reasons,
    )
    num_nodes = sum(node["Alive"] for node in ray.nodes())
    check_before_start(
        base_model,
        _setup(config, chosen, workers, train),
        gpu_memory_bytes=hardware.gpu_memory_bytes,
        num_nodes=num_nodes,
        reasons=reasons,
    )
    batches = _batches(config, workers, train, validation)
    base_digest = str((lineage or {}).get("base_digest") or folder_fingerprint(base_model))
    facts = _facts(config, chosen, batches, rows=train.digest, base_digest=base_digest)
    fingerprint = fingerprint_of(facts)
    job = TrainingJob(
        base_model=base_model,
        folder=folder,
        checkpoints=_checkpoint_uri(
            training.checkpoint_location or (shared if num_nodes > 1 else None), folder, fingerprint
        ),
        fingerprint=fingerprint,
        method=chosen.method,
        parameters=chosen.parameters,
        objective=tuning.objective,
        objective_settings=tuning.objective_settings,
        max_length=max_length,
        strategy=chosen.strategy,
        precision=chosen.precision,
        packed=chosen.packed,
        training=chosen.training,
        distributed=tuning.distributed,
        seed=config.seed,
        plan=batches.training,
        validation_plan=batches.validation,
        num_steps=batches.num_steps,
        checkpoint_every_steps=training.checkpoint_every_steps or batches.training.num_windows,
        evaluate_every_steps=training.evaluate_every_steps or batches.training.num_windows,
        context_tokens=train.context_tokens,
        observers=ObserverSettings.of(
            config,
            run_id=fingerprint[:16],
            facts={
                **(lineage or {}),
                "method": chosen.method,
                "strategy": chosen.strategy,
                "precision": chosen.precision,
            },
            reasons=reasons,
        ),
        fetch_base=fetch_base,
    )
    return Plan(job, workers, train, validation, facts, reasons)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Settings of a run, from the configuration or chosen."""

    method: str
    parameters: MethodParameters
    strategy: str
    precision: str
    packed: bool
    max_length: int
    training: Training


@dataclass(frozen=True, slots=True)
class _Batches:
    """Division of rows into steps."""

    training: BatchPlan
    validation: BatchPlan | None
    num_steps: int


def _batches(
    config: Config, workers: WorkerResources, train: TokenisedData, validation: TokenisedData | None
) -> _Batches:
    training = config.fine_tuning.training
    micro_rows = training.batch_size * workers.num_workers
    plan = BatchPlan(train.num_rows, training.batch_size, micro_rows * training.gradient_accumulation_steps)
    return _Batches(
        plan,
        BatchPlan(validation.num_rows, training.batch_size, micro_rows) if validation else None,
        training.max_steps or math.ceil(training.epochs * plan.num_windows),
    )


def _setup(config: Config, chosen: _Chosen, workers: WorkerResources, train: TokenisedData) -> Setup:
    """Return the setup for the estimate."""
    return Setup.of_config(
        method=chosen.method,
        parameters=chosen.parameters,
        training=config.fine_tuning.training,
        distributed=config.fine_tuning.distributed,
        strategy=chosen.strategy,
        num_workers=workers.num_workers,
        precision=chosen.precision,
        max_length=min(chosen.max_length, math.ceil(train.context_tokens)),  # of the row that a token is in, on average
        device="cuda" if workers.use_gpu else "cpu",
        packed=chosen.packed,
    )


def _facts(config: Config, chosen: _Chosen, batches: _Batches, *, rows: str, base_digest: str) -> dict[str, Any]:
    """Everything that decides what is learnt."""
    tuning = config.fine_tuning
    return {
        "method": chosen.method,
        "parameters": chosen.parameters.model_dump(mode="json"),
        "objective": tuning.objective,
        "objective_settings": tuning.objective_settings and tuning.objective_settings.model_dump(mode="json"),
        "precision": chosen.precision,
        "packed": chosen.packed,
        "seed": config.seed,
        "num_steps": batches.num_steps,
        "window_rows": batches.training.window_rows,
        "training": chosen.training.model_dump(mode="json", include=_DECISIVE),
        "rows": rows,
        "base_model": base_digest,
    }


def check_inputs(config: Config, objective: Objective, base_model: Path, *, has_validation: bool) -> Architecture:
    """Check what can be known to be wrong without a cluster, and return the base model's architecture."""
    tuning, training = config.fine_tuning, config.fine_tuning.training
    check_base_model(base_model)
    tokenizer = load_tokenizer(base_model)
    if objective.needs_chat_template:
        check_chat_template(tokenizer)
    architecture = inspect_architecture(base_model, task=objective.task)
    if objective.task == "causal-lm" and not architecture.is_causal:
        raise UserError(
            f"The base model {str(base_model)!r} has an encoder, whose tokens see those after them. So it can't learn "
            f"to write text, as fine_tuning.objective {objective.name} asks for.",
            hint="Use a decoder-only model, or objective contrastive for vectors.",
        )
    if tuning.method != "auto":
        find_method(tuning.method)(tuning.parameters).check(architecture)
    for key in ("keep_best", "early_stopping_patience"):
        if getattr(training, key) and not has_validation:
            raise UserError(
                f"fine_tuning.training.{key} goes by the validation loss, but there are no validation rows.",
                hint="Give the dataset a validation split (dataset.validation.split_ratio), or leave the key out.",
            )
    return architecture


_DECISIVE = {
    "batch_size",
    "gradient_checkpointing",
    *CHANGEABLE_MIDWAY,
}
"""Settings of the loop that decide what is learnt, besides those that show in the rows and the number of steps."""


def _checkpoint_uri(location: str | None, folder: RunFolder, fingerprint: str) -> str:
    if location is None:
        return str(folder.path)
    # Absolute, since workers have current folders of their own; and one output's own, since it is cleaned up.
    place = hashlib.sha256(str(folder.path).encode()).hexdigest()[:8]
    return f"{Location(location).uri.rstrip('/')}/{folder.path.name.strip('.')}-{place}-{fingerprint[:16]}"


def _choose_packing(config: Config, method: str, architecture: Architecture, reasons: list[str]) -> bool:
    """Return True if rows are concatenated. Raises `UserError` where that is asked for and can't be."""
    wanted = config.fine_tuning.training.padding_free
    objective = find_objective(config.fine_tuning.objective)
    found = find_method(method)
    if wanted is False:
        return False
    for can, who in (
        (architecture.can_pack, "the base model's architecture"),
        (found.packable, f"method {method}"),
        (objective.packable, f"objective {objective.name}"),
    ):
        if not can:
            if wanted is True:
                raise UserError(
                    f"fine_tuning.training.padding_free is true, but {who} can't keep packed rows apart.",
                    hint="Leave it at auto.",
                )
            reasons.append(f"Rows are padded and put beside others of like length: {who} can't take packed ones.")
            return False
    return True


def choose_max_length(config: Config, architecture: Architecture, reasons: list[str]) -> int:
    """Return the longest sequence in tokens; a limit of the base model is added to ``reasons``."""
    max_length = config.fine_tuning.training.max_length or config.dataset.preprocessing.max_length
    limit, tuning = architecture.max_positions, config.fine_tuning
    if limit is not None and tuning.method != "auto":
        limit -= find_method(tuning.method)(tuning.parameters).num_reserved_positions
    if limit is not None and limit < max_length:
        reasons.append(f"Rows are cut at {limit} tokens, the longest that the base model was made for.")
        return limit
    return max_length


def _choose(
    config: Config,
    *,
    hardware: Hardware,
    workers: WorkerResources,
    architecture: Architecture,
    num_rows: int,
    max_length: int,
    reasons: list[str],
) -> _Chosen:
    precision = choose_precision(config.fine_tuning.training.precision, hardware, is_half=architecture.is_half)
    method, parameters = _choose_method(config, hardware, architecture, num_rows, reasons)
    strategy = _choose_strategy(
        config,
        hardware,
        num_workers=workers.num_workers,
        architecture=architecture,
        method=find_method(method)(parameters),
        reasons=reasons,
    )
    packed = _choose_packing(config, method, architecture, reasons)
    rate = choose_learning_rate(
        config.fine_tuning.training.learning_rate,
        method=method,
        objective=config.fine_tuning.objective,
        hidden_size=architecture.hidden_size,
    )
    if rate != config.fine_tuning.training.learning_rate:
        reasons.append(
            f"The learning rate is {rate:g}, for {method} on a model that is {architecture.hidden_size} wide."
        )
    training = config.fine_tuning.training.model_copy(update={"learning_rate": rate})
    return _Chosen(method, parameters, strategy, precision, packed, max_length, training)


def _choose_method(
    config: Config, hardware: Hardware, architecture: Architecture, num_rows: int, reasons: list[str]
) -> tuple[str, MethodParameters]:
    tuning = config.fine_tuning
    if tuning.method != "auto":
        return tuning.method, tuning.parameters
    choice = choose_method(
        hardware,
        num_parameters=architecture.num_parameters,
        num_rows=num_rows,
        intent=tuning.intent,
        parameters=tuning.parameters,
    )
    reasons.extend(choice.reasons)
    parameters = choice.apply(tuning.parameters)
    find_method(choice.name)(parameters).check(architecture)
    return choice.name, parameters


def _choose_strategy(
    config: Config,
    hardware: Hardware,
    *,
    num_workers: int,
    architecture: Architecture,
    method: Method,
    reasons: list[str],
) -> str:
    """The strategy. Raises `UserError` where the one that is asked for can't run the rest."""
    tuning, strategy = config.fine_tuning, str(config.fine_tuning.distributed.strategy)
    if strategy == "auto" and tuning.distributed.offload != "none":
        strategy = "deepspeed_zero2" if method.not_shardable else "deepspeed_zero3"
        reasons.append(f"fine_tuning.distributed.offload is set, which {strategy} does.")
    if strategy == "auto":
        choice = choose_strategy(
            hardware, num_workers=num_workers, method=method.name, num_parameters=architecture.num_parameters
        )
        strategy = choice.name
        reasons.extend(choice.reasons)
    if strategy == "deepspeed_zero3" and method.not_shardable:
        raise UnsupportedError(
            f"Method {method.name} can't be combined with fine_tuning.distributed.strategy deepspeed_zero3: "
            f"{method.not_shardable}.",
            hint="Use deepspeed_zero2 or ddp.",
        )
    if strategy == "deepspeed_zero3" and tuning.training.compile:
        raise UserError(
            "fine_tuning.training.compile can't be combined with deepspeed_zero3, which gathers weights as it goes.",
            hint="Use deepspeed_zero2, or leave compile out.",
        )
    return strategy
