"""Plan of a run: every check and every choice from configuration, cluster and rows, before a worker starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import ray.data

from llamafarm_ray.capacity import machines
from llamafarm_ray.config import Config, MethodParameters
from llamafarm_ray.config.sections.fine_tuning import CHANGEABLE_MIDWAY
from llamafarm_ray.errors import UserError
from llamafarm_ray.models.chat import check_chat_template
from llamafarm_ray.models.folder import check_base_model, folder_fingerprint
from llamafarm_ray.models.loading import Architecture, inspect_architecture
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.storage import Location
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.estimate import Setup, check_before_start
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.methods.auto import Hardware
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings
from llamafarm_ray.training.objectives import Objective, find_objective
from llamafarm_ray.training.plan.choosing import Choices, choose, choose_max_length
from llamafarm_ray.training.plan.identity import fingerprint_of
from llamafarm_ray.training.plan.inputs import TrainingInputs
from llamafarm_ray.training.plan.job import RunFolder, TrainingJob
from llamafarm_ray.training.plan.resources import WorkerResources, choose_workers, find_hardware
from llamafarm_ray.training.tokens.token_files import TokenSettings, TokenStore
from llamafarm_ray.training.tokens.tokenised import TokenisedData, tokenise

__all__ = ["Plan", "check_inputs", "make_plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job, with the data and resources it runs on.

    Args:
        validation: tokenised validation rows, if there are any.
        facts: facts that decide the result; the job's fingerprint is their digest.
        reasons: reasons for choices that the configuration left open.
    """

    job: TrainingJob
    workers: WorkerResources
    train: TokenisedData
    validation: TokenisedData | None
    facts: dict[str, object]
    reasons: list[str] = field(default_factory=list)


def make_plan(
    config: Config,
    inputs: TrainingInputs,
    folder: RunFolder,
    note: Callable[[str], None] | None = None,
    *,
    earlier: Mapping[str, object] | None = None,
) -> Plan:
    """Check everything, tokenise the rows and choose what was left open. The cheapest checks come first.

    Args:
        note: called with notes for the user.
        earlier: the facts of the unfinished run in the folder, which goes on with the blocks that it chose.

    Raises:
        UserError: the request can't be done; see `train`.
        ClusterError: Ray is not running.
    """
    tuning, base_model = config.fine_tuning, inputs.base_model
    objective = find_objective(tuning.objective, tuning.objective_settings)
    architecture = check_inputs(config, objective, base_model, has_validation=inputs.validation_rows is not None)
    hardware = find_hardware(tuning.distributed.gpus or 1, note)
    _check_kernels(config, hardware)
    workers = choose_workers(tuning.distributed, hardware)
    num_nodes = len(machines())
    reasons: list[str] = []
    max_length = choose_max_length(config, architecture, reasons)
    tokenizing = _Tokenizing.of(config, inputs, objective, max_length, num_nodes=num_nodes, reasons=reasons)
    train = tokenizing.rows(inputs.train_rows, "training")
    validation = tokenizing.rows(inputs.validation_rows, "validation") if inputs.validation_rows is not None else None
    base_digest = str(inputs.lineage.get("base_digest") or folder_fingerprint(base_model))
    chosen = choose(
        config,
        hardware=hardware,
        workers=workers,
        architecture=architecture,
        num_rows=train.num_rows,
        passes=inputs.passes,
        max_length=max_length,
        reasons=reasons,
        begun_with=_layers_of(earlier, rows=train.digest, base_digest=base_digest),
    )
    setup, memory = _setup(config, chosen, workers, train), hardware.gpu_memory_bytes
    check_before_start(base_model, setup, gpu_memory_bytes=memory, num_nodes=num_nodes, reasons=reasons)
    batches = _batches(chosen.training, workers, train, validation)
    facts = _facts(config, chosen, batches, rows=train.digest, base_digest=base_digest)
    job = _job(
        config,
        chosen,
        batches,
        inputs,
        folder=folder,
        fingerprint=fingerprint_of(facts),
        num_nodes=num_nodes,
        context_tokens=train.context_tokens,
        reasons=reasons,
    )
    return Plan(job, workers, train, validation, facts, reasons)


def _check_kernels(config: Config, hardware: Hardware) -> None:
    if config.fine_tuning.training.fused_kernels is True and hardware.num_gpus == 0:
        raise UserError(
            "fine_tuning.training.fused_kernels is true, but the cluster has no GPU.", hint="Leave the key at auto."
        )


@dataclass(frozen=True, slots=True)
class _Tokenizing:
    """Tokenization of a run's rows, or reuse of the tokens that a dataset has already."""

    config: Config
    inputs: TrainingInputs
    objective: Objective
    max_length: int
    tokens: TokenStore | None
    settings: TokenSettings | None
    reasons: list[str]

    @classmethod
    def of(
        cls,
        config: Config,
        inputs: TrainingInputs,
        objective: Objective,
        max_length: int,
        *,
        num_nodes: int,
        reasons: list[str],
    ) -> Self:
        """Decide whether tokens that were made before may be used."""
        tokens, settings = inputs.tokens, None
        if tokens and num_nodes > 1:
            reasons.append(f"The tokens in {tokens.folder} are left alone: other nodes may not see them.")
            tokens = None
        if tokens:
            kind = config.fine_tuning.objective_settings
            settings = TokenSettings.of(inputs.base_model, objective, kind, max_length=max_length, seed=config.seed)
        return cls(config, inputs, objective, max_length, tokens, settings, reasons)

    def rows(self, rows: ray.data.Dataset, name: str) -> TokenisedData:
        """Return the tokens of ``rows``; ``name`` is theirs in messages and files."""
        tokens = self.tokens
        found = tokens.load(self.settings, name) if tokens and self.settings else None
        if found is not None:
            self.reasons.append(f"The {name} rows were tokenized before: {tokens and tokens.folder}.")
            return found
        if tokens and tokens.has_others():
            self.reasons.append(
                f"The tokens in {tokens.folder} are not of these {name} rows and settings: new ones are made."
            )
        return tokenise(
            rows,
            base_model=self.inputs.base_model,
            fetch_base=self.inputs.fetch_base,
            objective=self.objective,
            max_length=self.max_length,
            seed=self.config.seed,
            name=name,
        )


def _job(
    config: Config,
    chosen: Choices,
    batches: _Batches,
    inputs: TrainingInputs,
    *,
    folder: RunFolder,
    fingerprint: str,
    num_nodes: int,
    context_tokens: float,
    reasons: list[str],
) -> TrainingJob:
    tuning, training = config.fine_tuning, config.fine_tuning.training
    location = training.checkpoint_location or (inputs.shared if num_nodes > 1 else None)
    shown = {"method": chosen.method, "strategy": chosen.strategy, "precision": chosen.precision}
    told = {**inputs.lineage, **shown}
    return TrainingJob(
        base_model=inputs.base_model,
        folder=folder,
        checkpoints=_checkpoint_uri(location, folder, fingerprint),
        fingerprint=fingerprint,
        method=chosen.method,
        parameters=chosen.parameters,
        objective=tuning.objective,
        objective_settings=tuning.objective_settings,
        max_length=chosen.max_length,
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
        context_tokens=context_tokens,
        observers=ObserverSettings.of(config, run_id=fingerprint[:16], facts=told, reasons=reasons),
        fetch_base=inputs.fetch_base,
    )


@dataclass(frozen=True, slots=True)
class _Batches:
    """Division of rows into steps."""

    training: BatchPlan
    validation: BatchPlan | None
    num_steps: int


def _batches(
    training: DecidedTraining, workers: WorkerResources, train: TokenisedData, validation: TokenisedData | None
) -> _Batches:
    micro_rows = training.batch_size * workers.num_workers
    plan = BatchPlan(train.num_rows, training.batch_size, micro_rows * training.gradient_accumulation_steps)
    return _Batches(
        plan,
        BatchPlan(validation.num_rows, training.batch_size, micro_rows) if validation else None,
        training.max_steps or math.ceil(training.epochs * plan.num_windows),
    )


def _setup(config: Config, chosen: Choices, workers: WorkerResources, train: TokenisedData) -> Setup:
    """Return the setup for the estimate."""
    return Setup.of_config(
        method=chosen.method,
        parameters=chosen.parameters,
        training=chosen.training,
        distributed=config.fine_tuning.distributed,
        strategy=chosen.strategy,
        num_workers=workers.num_workers,
        precision=chosen.precision,
        max_length=min(chosen.max_length, math.ceil(train.context_tokens)),  # of the row that a token is in, on average
        device="cuda" if workers.use_gpu else "cpu",
        packed=chosen.packed,
    )


def _facts(config: Config, chosen: Choices, batches: _Batches, *, rows: str, base_digest: str) -> dict[str, object]:
    """Everything that decides what is learnt."""
    tuning = config.fine_tuning
    return {
        "method": chosen.method,
        "parameters": _decisive(chosen.parameters),
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


def _decisive(parameters: MethodParameters) -> dict[str, object]:
    """Return the parameters that decide what is learned; runs from before `layers_to_transform` adapted all blocks."""
    values: dict[str, object] = parameters.model_dump(mode="json")
    if isinstance(parameters.layers_to_transform, str):
        del values["layers_to_transform"]
    return values


def _layers_of(
    earlier: Mapping[str, object] | None, *, rows: str, base_digest: str
) -> tuple[int, ...] | Literal["all"] | None:
    """Return the blocks that an unfinished run of these rows and this base model adapts; None if there is none."""
    if earlier is None or (earlier.get("rows"), earlier.get("base_model")) != (rows, base_digest):
        return None
    parameters = earlier.get("parameters")
    layers = parameters.get("layers_to_transform") if isinstance(parameters, Mapping) else None
    return tuple(layers) if isinstance(layers, list) else "all"


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
