"""Tune: many trainings with different settings, the best of which becomes the model."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import yaml

from llamafarm_ray.config import Config, Domain, recorded
from llamafarm_ray.data import Splits, open_dataset, open_mixture
from llamafarm_ray.data.report import Tell
from llamafarm_ray.errors import ConfigError, ConflictError, InputError, TrainingError
from llamafarm_ray.models.loading import inspect_architecture
from llamafarm_ray.registry import BaseModel, RegistryApi, VersionRecord
from llamafarm_ray.storage.local import write_whole
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.plan.resources import count_devices
from llamafarm_ray.tuning.automl import AutoSpace, automatic_space
from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.journal import Journal, Record, SweepFacts
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.population import Population, ancestors
from llamafarm_ray.tuning.ray_tune import run_sweep
from llamafarm_ray.tuning.search import make_search
from llamafarm_ray.tuning.space import Space, base_table
from llamafarm_ray.tuning.sweep import Sweep, SweepResult, only_sweep
from llamafarm_ray.workflows.datasets.create_dataset import create_dataset
from llamafarm_ray.workflows.jobs.outputs import own_output
from llamafarm_ray.workflows.models.parents import new_folder
from llamafarm_ray.workflows.training.estimate import try_estimate
from llamafarm_ray.workflows.training.train import TrainingRun, check_rows
from llamafarm_ray.workflows.tuning.checks import (
    check_changeable,
    default_folder,
    made_by,
    no_validation,
    with_whole_paths,
)
from llamafarm_ray.workflows.tuning.page import Page
from llamafarm_ray.workflows.tuning.sizes import Points, finished_seconds, num_concurrent_trials, num_trials, with_sizes
from llamafarm_ray.workflows.tuning.trial import TrialSettings, run_trial
from llamafarm_ray.workflows.versions.register import register_trained

__all__ = ["TunedModel", "TuningRun", "register_tuned"]

_AUTO_METHODS: Final = ("lora", "qlora", "full")
"""Methods that AutoML chooses from: each is served by vLLM."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A finished sweep.

    Attributes:
        path: the best trial's model; None where no trial finished.
        config: the best trial's configuration.
        words: findings, in sentences.
    """

    folder: Path
    path: Path | None
    config: Config | None
    result: SweepResult
    words: list[str]


@dataclass(frozen=True, slots=True)
class TuningRun:
    """A sweep that can start: everything that can be known to be wrong without a cluster was looked at.

    Attributes:
        config: ``tuning`` has the settings to try.
        registry: registry for datasets and the base model.
        output: the folder that the best model becomes.
        domains: searched domains; None where they are left open (AutoML).
    """

    config: Config
    registry: RegistryApi
    folder: Path
    output: Path
    base: BaseModel
    domains: Mapping[str, Domain] | None

    @classmethod
    def prepare(
        cls,
        config: Config,
        registry: RegistryApi,
        *,
        folder: Path | None = None,
        overwrite: bool = False,
        restart: bool = False,
    ) -> Self:
        """Check a sweep before Ray is started or asked.

        Args:
            config: ``tuning``, and what `TrainingRun.prepare` uses.
            registry: registry for a base model.
            folder: the sweep's state; ``tuning/NAME`` in the home by default. A sweep that is in it goes on.
            overwrite: replace ``trained_models/NAME``.
            restart: forget the sweep that is in the folder.

        Raises:
            ConfigError: a key or value of ``tuning.parameters`` does not exist.
            InputError: base model or dataset are missing or unusable.
            ConflictError: ``trained_models/NAME`` was made by something else.
            PolicyError: the namespace has used its device hours of this month.
        """
        config = with_whole_paths(config)
        tuning = config.tuning
        domains = Space.of(config).domains if tuning.parameters else None
        if tuning.scheduler == "pbt":
            check_changeable(domains or {})
        if tuning.search == "grid" and domains is None:
            raise ConfigError("the search space", ["tuning.search: is grid, so tuning.parameters has to list values."])
        if tuning.search == "grid":
            Space.of(config).grid()
        if not check_rows(config) and tuning.metric == "validation_loss":
            raise no_validation()
        output = own_output(Path("trained_models", config.name), config)
        bases = domains["base_model"].values if domains and "base_model" in domains else (config.base_model,)
        runs = [
            TrainingRun.prepare(config.model_copy(update={"base_model": base}), registry, output=output, overwrite=True)
            for base in bases
        ]
        where = (folder or default_folder(config)).expanduser().absolute()
        if restart and where.exists():
            with only_sweep(where):
                shutil.rmtree(where)
        if output.exists() and not overwrite and made_by(output) != str(where):
            raise ConflictError(f"The output {str(output)!r} exists already.", hint="Use another name, or --overwrite.")
        return cls(config, registry, where, output, runs[0].base, domains)

    def run(
        self,
        *,
        cores: int | None = None,
        on_change: Callable[[Mapping[int, Record]], None] | None = None,
        on_stage: Tell | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> TunedModel:
        """Run trials until the sweep is done. Needs a connected Ray.

        Args:
            cores: CPUs that there are, where Ray counts more (a Ray of this machine alone).
            on_change: called with all trials when something happened, and every second.
            on_stage: called in this thread as parts of a stage of the dataset's build are done.
            on_note: called with what else there is to say.

        Raises:
            ConflictError: the folder holds another sweep, or another process works in it.
            TrainingError: every trial failed.
        """
        note = on_note or (lambda _: None)
        with only_sweep(self.folder):
            journal = Journal(self.folder / "journal.jsonl")
            config, splits = self._open_dataset(on_stage)
            tuning = config.tuning
            if splits.validation is None and tuning.metric == "validation_loss":
                raise no_validation()
            rows = splits.train.count()
            auto = self._automatic(config, journal, rows, splits.passes) if self.domains is None else None
            space = Space.of(config, auto.domains if auto else self.domains)
            facts = self._facts(config, space, splits, is_auto=auto is not None)
            if journal.begin(facts):
                note(f"The sweep in {self.folder} goes on: {len(journal.records)} trials are known.")
            for reason in auto.reasons if auto else ():
                note(reason)
            sized = with_sizes(config, num_rows=rows, passes=splits.passes)
            points = Points.of(sized, space, num_rows=rows) if tuning.scheduler != "none" else None
            sweep = self._sweep(config, facts, points, concurrent=num_concurrent_trials(config, space, cores))
            budget = Budget(tuning.budget_s, journal.spent_s)
            planner = _planner(config, journal, space, auto, budget=budget, population=sweep.population)
            note(f"Up to {sweep.concurrent} trial{'s' if sweep.concurrent > 1 else ''} at once.")
            page = Page(self.folder, space, facts, journal, auto.reasons if auto else [])

            def changed(records: Mapping[int, Record]) -> None:
                page.write(live=True)
                if on_change is not None:
                    on_change(records)

            trial = functools.partial(run_trial, TrialSettings(config.home, tuning.metric, points, rows, splits.passes))
            result = run_sweep(sweep, journal, planner, trial, budget=budget, on_change=changed)
            sizes = functools.partial(with_sizes, num_rows=rows, passes=splits.passes)
            return self._finish(sweep, space, result, page, sizes=sizes)

    def _open_dataset(self, on_stage: Tell | None) -> tuple[Config, Splits]:
        """The rows, built if need be, once for all trials."""
        dataset, ratio = self.config.dataset, self.config.dataset.validation.split_ratio
        if dataset.mixture:
            return self.config, open_mixture(dataset.mixture, split_ratio=ratio, seed=self.config.seed)[0]
        if dataset.path is not None:
            return self.config, open_dataset(Path(dataset.path), split_ratio=ratio, seed=self.config.seed)
        path = create_dataset(self.config, self.registry, on_progress=on_stage).path.absolute()
        built = dataset.model_copy(update={"path": str(path)})
        return self.config.model_copy(update={"dataset": built}), open_dataset(path)

    def _automatic(self, config: Config, journal: Journal, num_rows: int, passes: int) -> AutoSpace:
        """Return AutoML's search space; a resumed sweep keeps the one it began with."""
        methods = _fitting_methods(config, self.registry)
        taken = [key for key in _AUTO_KEYS if _is_set(config, key)]
        made = automatic_space(
            methods=methods,
            linear_modules=inspect_architecture(self.base.folder).linear_modules,
            num_rows=num_rows,
            passes=passes,
            taken=taken,
        )
        if journal.facts is not None and journal.facts["facts"].get("auto"):
            known = {key: Domain.parse(one) for key, one in journal.facts["facts"]["parameters"].items()}
            return replace(made, domains=known)
        return made

    def _facts(self, config: Config, space: Space, splits: Splits, *, is_auto: bool) -> SweepFacts:
        tuning = config.tuning
        base = {key: space.base[key] for key in ("fine_tuning", "seed") if key in space.base}
        if "base_model" not in space.domains:
            # By what it is: a job finds it in another place once a file of its working directory was changed.
            base["base_model"] = str(self.base.digest)
        facts = {
            "auto": is_auto,
            "parameters": {key: domain.to_dict() for key, domain in space.domains.items()},
            "search": tuning.search,
            "scheduler": tuning.scheduler,
            "early_stopping": tuning.early_stopping.model_dump(mode="json"),
            "dataset": splits.digest,
            "base": base,
        }
        if config.dataset.validation.split_ratio is not None:
            facts["split_ratio"] = config.dataset.validation.split_ratio
        if tuning.scheduler == "pbt":
            facts["pbt"] = tuning.pbt.model_dump(mode="json")
        return SweepFacts(config.name, tuning.metric, tuning.lower_is_better, facts)

    def _sweep(self, config: Config, facts: SweepFacts, points: Points | None, *, concurrent: int) -> Sweep:
        tuning = config.tuning
        return Sweep(
            facts,
            self.folder,
            concurrent=concurrent,
            num_points=points.count if points else 0,
            reduction_factor=tuning.early_stopping.reduction_factor,
            keep_models=tuning.keep_models,
            population=_population(config, points),
        )

    def _finish(
        self, sweep: Sweep, space: Space, result: SweepResult, page: Page, *, sizes: Callable[[Config], Config]
    ) -> TunedModel:
        """Write the results, and publish the best trial's model.

        Args:
            sizes: decides the epochs and the batch size of a trial, so that the same are used again.
        """
        config = None
        if result.best is not None:
            config = space.point(result.best.values).config
            assert config is not None  # it was trained
            config = sizes(config)
            self._publish(sweep, result)
            whole = {key: one for key, one in recorded(config).items() if key != "tuning"}
            text = yaml.safe_dump(whole, sort_keys=False)
            path = self.folder / "best.yaml"
            head = f"# llamafarm models train --config {path}\n"
            if result.best.parent is not None:
                head += f"# Its last settings; it began with the weights of trial {result.best.parent:04d}.\n"
            write_whole(path, head + text)
        words = page.write(ended_because=result.ended_because, seconds=result.seconds)
        failed = [record for record in result.records if record.reason and record.state == "failed"]
        if result.best is None and failed and all(record.state in {"failed", "invalid"} for record in result.records):
            raise TrainingError(
                f"All {len(failed)} trials failed; trial {failed[0].number}: {failed[0].reason}",
                hint=f"Every trial's reason is in {self.folder / 'trials.jsonl'}.",
            )
        return TunedModel(self.folder, self.output if result.best else None, config, result, words)

    def _publish(self, sweep: Sweep, result: SweepResult) -> None:
        """Copy the best trial's model to the output, with its record saying which sweep it comes from."""
        best = result.best
        assert best is not None  # the caller looked
        with new_folder(self.output, overwrite=True) as partial:
            shutil.copytree(sweep.output(best), partial, dirs_exist_ok=True)
            path = partial / "training.json"
            record = json.loads(path.read_text(encoding="utf-8"))
            record["lineage"]["sweep"] = {
                "folder": str(self.folder),
                "trial": best.number,
                "num_trials": len(result.records),
                "metric": sweep.facts.metric,
                "value": best.value,
            }
            parents = [parent.number for parent in ancestors(best, {one.number: one for one in result.records})]
            if parents:
                record["lineage"]["sweep"]["parents"] = parents
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def register_tuned(registry: RegistryApi, config: Config, tuned: TunedModel) -> VersionRecord:
    """Register the best model under the configuration's name, with the sweep and the trial it comes from.

    Raises:
        InputError: no trial finished.
    """
    if tuned.path is None or tuned.result.best is None:
        raise InputError("No trial finished, so there is nothing to register.", hint="Give the sweep more time.")
    run = f"sweep {tuned.folder.name}, trial {tuned.result.best.number}"
    return register_trained(registry, config, tuned.path, run=run)


_AUTO_KEYS: Final = (
    "fine_tuning.method",
    "fine_tuning.parameters.r",
    "fine_tuning.parameters.target_modules",
    "fine_tuning.training.learning_rate",
    "fine_tuning.training.lr_scheduler",
    "fine_tuning.training.epochs",
)


def _planner(
    config: Config,
    journal: Journal,
    space: Space,
    auto: AutoSpace | None,
    *,
    budget: Budget,
    population: Population | None,
) -> Planner:
    tuning = config.tuning
    return Planner(
        journal,
        space,
        make_search(tuning.search, space, config.seed, lower_is_better=tuning.lower_is_better),
        num_trials=num_trials(config),
        first=auto.first if auto else (),
        has_time=lambda: budget.has_room(finished_seconds(journal.records)),
        population=population,
    )


def _population(config: Config, points: Points | None) -> Population | None:
    tuning = config.tuning
    if tuning.scheduler != "pbt" or points is None:
        return None
    pbt = tuning.pbt
    return Population(points.count, pbt.quantile, pbt.resample_probability, tuning.lower_is_better, config.seed)


def _fitting_methods(config: Config, registry: RegistryApi) -> list[str]:
    """Return the methods that fit the devices by estimate and that vLLM serves; lora where nothing is known."""
    has_gpu = count_devices().num_gpus > 0
    found = []
    for name in _AUTO_METHODS:
        if name == "qlora" and not has_gpu:
            continue  # 4-bit weights gain no speed on a CPU
        if find_method(name)(config.fine_tuning.parameters).served_by != "vllm":
            continue
        tuning = config.fine_tuning.model_copy(update={"method": name})
        estimate = try_estimate(config.model_copy(update={"fine_tuning": tuning}), lambda: registry)
        if isinstance(estimate, str) or estimate.verdict == "fits":
            found.append(name)
    return found or ["lora"]


def _is_set(config: Config, key: str) -> bool:
    here: object = base_table(config)
    for name in key.split("."):
        if not isinstance(here, dict) or name not in here:
            return False
        here = here[name]
    return True
