"""From a configuration, a cluster and the rows to a job: every check and every choice, before a worker starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import ray.data

from llamafarm_ray.config import Config
from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.chat import check_chat_template
from llamafarm_ray.models.folder import check_base_model
from llamafarm_ray.models.loading import Architecture, inspect_architecture
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.job import RunFolder, TrainingJob
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.methods.auto import Hardware, choose_method
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.resources import WorkerResources, choose_precision, choose_workers, find_hardware
from llamafarm_ray.training.shards import TokenisedData, tokenise
from llamafarm_ray.training.strategies import choose_strategy

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job, with the data and resources it runs on.

    Args:
        job: what workers do.
        workers: how many there are and what each takes.
        train: tokenised training rows.
        validation: tokenised validation rows, if there are any.
        reasons: why things that the configuration left open were chosen so.
    """

    job: TrainingJob
    workers: WorkerResources
    train: TokenisedData
    validation: TokenisedData | None
    reasons: list[str] = field(default_factory=list)


def make_plan(
    config: Config,
    *,
    train_rows: ray.data.Dataset,
    validation_rows: ray.data.Dataset | None,
    base_model: Path,
    folder: RunFolder,
) -> Plan:
    """Check everything, tokenise the rows and choose what was left open. The cheapest checks come first.

    Raises:
        UserError: what was asked can't be done; see `train`.
        ClusterError: Ray is not running.
    """
    tuning, training = config.fine_tuning, config.fine_tuning.training
    find_objective(tuning.objective)
    check_base_model(base_model)
    check_chat_template(load_tokenizer(base_model))
    architecture = inspect_architecture(base_model)
    if tuning.method != "auto":
        find_method(tuning.method)(tuning.parameters).check(architecture)
    hardware = find_hardware()
    workers = choose_workers(tuning.distributed, hardware)
    precision = choose_precision(training.precision, hardware)

    reasons: list[str] = []
    max_length = _choose_max_length(config, architecture, reasons)

    def tokenised(rows: ray.data.Dataset, name: str) -> TokenisedData:
        return tokenise(
            rows, base_model=base_model, objective=tuning.objective, max_length=max_length, seed=config.seed, name=name
        )

    train = tokenised(train_rows, "training")
    validation = tokenised(validation_rows, "validation") if validation_rows is not None else None
    method, strategy = _choose(
        config,
        hardware=hardware,
        workers=workers,
        architecture=architecture,
        num_rows=train.num_rows,
        reasons=reasons,
    )
    plan = BatchPlan(train.num_rows, workers.num_workers, training.batch_size, training.gradient_accumulation_steps)
    num_steps = math.ceil(training.epochs * plan.num_windows)
    job = TrainingJob(
        base_model=base_model,
        folder=folder,
        method=method,
        parameters=tuning.parameters,
        objective=tuning.objective,
        strategy=strategy,
        precision=precision,
        training=training,
        seed=config.seed,
        plan=plan,
        validation_plan=BatchPlan(validation.num_rows, workers.num_workers, training.batch_size, 1)
        if validation
        else None,
        num_steps=min(num_steps, training.max_steps or num_steps),
        checkpoint_every_steps=training.checkpoint_every_steps or plan.num_windows,
        tensorboard=config.monitoring.tensorboard,
    )
    return Plan(job, workers, train, validation, reasons)


def _choose_max_length(config: Config, architecture: Architecture, reasons: list[str]) -> int:
    max_length = config.fine_tuning.training.max_length or config.dataset.preprocessing.max_length
    limit = architecture.max_positions
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
    reasons: list[str],
) -> tuple[str, str]:
    tuning = config.fine_tuning
    method, strategy = str(tuning.method), str(tuning.distributed.strategy)
    if method == "auto":
        choice = choose_method(hardware, num_parameters=architecture.num_parameters, num_rows=num_rows)
        method = choice.name
        reasons.extend(choice.reasons)
        find_method(method)(tuning.parameters).check(architecture)
    if strategy == "auto":
        choice = choose_strategy(
            hardware, num_workers=workers.num_workers, method=method, num_parameters=architecture.num_parameters
        )
        strategy = choice.name
        reasons.extend(choice.reasons)
    if strategy == "deepspeed_zero3" and not find_method(method).shardable:
        raise UnsupportedError(
            f"Method {method} can't be combined with fine_tuning.distributed.strategy deepspeed_zero3: 4-bit weights "
            "are not split between workers.",
            hint="Use deepspeed_zero2 or ddp.",
        )
    return method, strategy
