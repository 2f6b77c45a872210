"""Choice of the settings that a configuration left open: method, strategy, precision, packing, sizes and rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamafarm_ray.config import LORA_METHODS, Config, MethodParameters
from llamafarm_ray.errors import UnsupportedError, UserError
from llamafarm_ray.models.loading import Architecture
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.methods import Method, find_method
from llamafarm_ray.training.methods.auto import Hardware, choose_method
from llamafarm_ray.training.methods.lora import num_blocks
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.plan.epochs import with_epochs_and_batch_size
from llamafarm_ray.training.plan.layers import two_thirds, upper_blocks
from llamafarm_ray.training.plan.learning_rate import choose_learning_rate
from llamafarm_ray.training.plan.resources import WorkerResources, choose_precision
from llamafarm_ray.training.strategies import choose_strategy

__all__ = ["Choices", "choose", "choose_max_length"]


@dataclass(frozen=True, slots=True)
class Choices:
    """Settings of a run, from the configuration or chosen."""

    method: str
    parameters: MethodParameters
    strategy: str
    precision: str
    packed: bool
    max_length: int
    training: DecidedTraining


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


def choose(
    config: Config,
    *,
    hardware: Hardware,
    workers: WorkerResources,
    architecture: Architecture,
    num_rows: int,
    passes: int,
    max_length: int,
    reasons: list[str],
    begun_with: tuple[int, ...] | Literal["all"] | None = None,
) -> Choices:
    """Return the settings of a run; the reasons for those that the configuration left open are added to ``reasons``.

    Args:
        num_rows: rows of the training split.
        passes: passes over the questions that the rows are written in.
        max_length: the longest row, in tokens.
        reasons: the reasons are added to it.
        begun_with: the blocks that the run adapts that goes on; None for a new one.

    Raises:
        UserError: settings that were asked for can't be combined.
    """
    precision = choose_precision(config.fine_tuning.training.precision, hardware, is_half=architecture.is_half)
    method, parameters = _choose_method(config, hardware, architecture, num_rows, reasons)
    reasons += _about_experts(method, architecture)
    blocks = num_blocks(architecture.linear_layers)
    upper, why = None, "as when the run began"
    if begun_with is None:
        upper = upper_blocks(
            method,
            parameters,
            blocks=blocks,
            passes=passes,
            on_gpu=hardware.num_gpus > 0,
            checkpointing=config.fine_tuning.training.gradient_checkpointing,
        )
        why = "which takes less time without a GPU"
    elif begun_with == two_thirds(blocks) and method in LORA_METHODS and parameters.layers_to_transform == "auto":
        upper = two_thirds(blocks)
    if upper is not None:
        reasons.append(f"The {len(upper)} upper of {blocks} blocks are adapted, {why}.")
        parameters = parameters.model_copy(update={"layers_to_transform": upper})
    strategy = _choose_strategy(
        config,
        hardware,
        num_workers=workers.num_workers,
        architecture=architecture,
        method=find_method(method)(parameters),
        reasons=reasons,
    )
    packed = _choose_packing(config, method, architecture, reasons)
    rate = _choose_rate(config, method, architecture, passes, reasons)
    training = _decided(config, rate=rate, num_rows=num_rows, passes=passes, reasons=reasons)
    return Choices(method, parameters, strategy, precision, packed, max_length, training)


def _about_experts(method: str, architecture: Architecture) -> list[str]:
    """Return what becomes of routed experts, where a method leaves them alone."""
    if method not in LORA_METHODS or not architecture.num_expert_parameters:
        return []
    of = f"{architecture.num_expert_parameters:,} of {architecture.num_parameters:,} parameters"
    also = ", and they stay in 16 bits" if method == "qlora" else ""
    return [f"The routed experts, {of}, are not trained: low-rank updates stand beside linear layers{also}."]


def _choose_rate(config: Config, method: str, architecture: Architecture, passes: int, reasons: list[str]) -> float:
    configured = config.fine_tuning.training.learning_rate
    rate = choose_learning_rate(
        configured,
        method=method,
        objective=config.fine_tuning.objective,
        hidden_size=architecture.hidden_size,
        passes=passes if method in LORA_METHODS else 1,
    )
    if rate != configured:
        reasons.append(
            f"The learning rate is {rate:g}, for {method} on a model that is {architecture.hidden_size} wide."
        )
    return rate


def _decided(config: Config, *, rate: float, num_rows: int, passes: int, reasons: list[str]) -> DecidedTraining:
    """Return the settings of the loop with a rate, epochs and a batch size."""
    configured = config.fine_tuning.training
    objective = config.fine_tuning.objective
    training = with_epochs_and_batch_size(configured, objective=objective, num_rows=num_rows, passes=passes)
    if configured.epochs == "auto" and configured.max_steps is None and passes > 1:
        reasons.append(f"Epochs are {training.epochs:g}: the dataset is written in {passes} passes over its questions.")
    if training.batch_size != configured.batch_size:
        run = (
            f"{training.epochs:g} x {num_rows:,} rows"
            if training.max_steps is None
            else f"{training.max_steps:,} steps"
        )
        reasons.append(f"A batch is {training.batch_size} rows, for a run of {run}.")
    return DecidedTraining.model_validate(training.model_dump(exclude_unset=True) | {"learning_rate": rate})


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
