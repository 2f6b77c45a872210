"""Tune: many trainings with different settings, the best of which becomes the model."""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import ray
import yaml

from llamafarm_ray.config import Config, Domain, resolved
from llamafarm_ray.data import Splits, open_dataset, open_mixture
from llamafarm_ray.errors import ConfigError, ConflictError, InputError, TrainingError, UserError
from llamafarm_ray.models.loading import inspect_architecture
from llamafarm_ray.registry import RegistryApi, VersionRecord, open_registry
from llamafarm_ray.registry.service import registry_home
from llamafarm_ray.storage.locks import try_exclusive
from llamafarm_ray.training import Progress
from llamafarm_ray.training.history import History
from llamafarm_ray.training.job import RunFolder
from llamafarm_ray.training.methods import find_method
from llamafarm_ray.training.resources import choose_workers, find_hardware
from llamafarm_ray.tuning.automl import AutoSpace, automatic_space
from llamafarm_ray.tuning.budget import Budget
from llamafarm_ray.tuning.explain import explain
from llamafarm_ray.tuning.journal import Journal, Record, SweepFacts
from llamafarm_ray.tuning.packing import Node, TrialNeeds, num_concurrent
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.report import SweepPage, write_page
from llamafarm_ray.tuning.search import make_search
from llamafarm_ray.tuning.space import Space, base_table
from llamafarm_ray.tuning.sweep import Sweep, SweepResult, best_of, only_sweep, run_sweep
from llamafarm_ray.tuning.trial import Report
from llamafarm_ray.workflows.create_dataset import create_dataset
from llamafarm_ray.workflows.estimate import try_estimate
from llamafarm_ray.workflows.parents import new_folder
from llamafarm_ray.workflows.register import Registration, register
from llamafarm_ray.workflows.train import TrainingRun

__all__ = ["TunedModel", "TuningRun", "register_tuned"]

_DEFAULT_TRIALS: Final = 20
_OLD_RUN_ENDS_S: Final = 60.0
"""How long the driver of an interrupted trial may take to be gone."""
_LOOK_S: Final = 0.3
_PAGE_S: Final = 5.0
_AUTO_METHODS: Final = ("lora", "qlora", "full")
"""What AutoML chooses from: each is served by vLLM."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A finished sweep.

    Attributes:
        folder: the sweep's.
        path: the best trial's model; None where no trial finished.
        config: the best trial's configuration.
        result: all trials.
        words: what was found, in sentences.
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
        config: ``tuning`` says what is tried.
        registry: where datasets are recorded and the base may come from.
        folder: the sweep's state.
        output: the folder that the best model becomes.
        base: the base model's folder.
        domains: what is searched; None where that is left open (AutoML).
    """

    config: Config
    registry: RegistryApi
    folder: Path
    output: Path
    base: Path
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
            registry: where a base model may come from.
            folder: the sweep's state; ``tuning/NAME`` in the home by default. A sweep that is in it goes on.
            overwrite: replace ``trained_models/NAME``.
            restart: forget the sweep that is in the folder.

        Raises:
            ConfigError: a key or value of ``tuning.parameters`` does not exist.
            InputError: base model or dataset are missing or unusable.
            ConflictError: ``trained_models/NAME`` was made by something else.
        """
        config = _with_whole_paths(config)
        tuning = config.tuning
        domains = Space.of(config).domains if tuning.parameters else None
        if tuning.search == "grid" and domains is None:
            raise ConfigError("the search space", ["tuning.search: is grid, so tuning.parameters has to list values."])
        if tuning.search == "grid":
            Space.of(config).grid()
        output = Path("trained_models", config.name)
        bases = domains["base_model"].values if domains and "base_model" in domains else (config.base_model,)
        runs = [
            TrainingRun.prepare(config.model_copy(update={"base_model": base}), registry, output=output, overwrite=True)
            for base in bases
        ]
        where = (folder or _default_folder(config)).expanduser().absolute()
        if restart and where.exists():
            with only_sweep(where):
                shutil.rmtree(where)
        if output.exists() and not overwrite and _made_by(output) != str(where):
            raise ConflictError(f"The output {str(output)!r} exists already.", hint="Use another name, or --overwrite.")
        return cls(config, registry, where, output, runs[0].base.folder, domains)

    def run(
        self,
        *,
        cores: int | None = None,
        on_change: Callable[[Mapping[int, Record]], None] | None = None,
        on_stage: Callable[[str, float], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> TunedModel:
        """Run trials until the sweep is done. Needs a connected Ray.

        Args:
            cores: CPUs that there are, where Ray counts more (a Ray of this machine alone).
            on_change: called with all trials when something happened, and every second.
            on_stage: called with a stage of the dataset's building and the fraction of it that is done.
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
                raise UserError(
                    "tuning.metric is validation_loss, but the dataset has no validation rows.",
                    hint="Set dataset.validation.split_ratio, or tuning.metric to train_loss.",
                )
            auto = self._automatic(config, journal, splits.train.count()) if self.domains is None else None
            space = Space.of(config, auto.domains if auto else self.domains)
            facts = self._facts(config, space, splits, is_auto=auto is not None)
            if journal.begin(facts):
                note(f"The sweep in {self.folder} goes on: {len(journal.records)} trials are known.")
            for reason in auto.reasons if auto else ():
                note(reason)
            rows = splits.train.count()
            points = _Points.of(config, space, num_rows=rows) if tuning.scheduler == "asha" else None
            sweep = Sweep(
                facts,
                self.folder,
                concurrent=_concurrent(config, space, cores),
                num_points=points.count if points else 0,
                reduction_factor=tuning.early_stopping.reduction_factor,
                keep_models=tuning.keep_models,
            )
            budget = Budget(tuning.budget_s, journal.spent_s)
            planner = Planner(
                journal,
                space,
                make_search(tuning.search, space, config.seed, lower_is_better=tuning.lower_is_better),
                num_trials=_num_trials(config),
                first=auto.first if auto else (),
                has_time=lambda: budget.has_room(_finished_seconds(journal.records)),
            )
            note(f"Up to {sweep.concurrent} trial{'s' if sweep.concurrent > 1 else ''} at once.")
            page = _Page(self, space, facts, journal, auto.reasons if auto else [])

            def changed(records: Mapping[int, Record]) -> None:
                page.write(live=True)
                if on_change is not None:
                    on_change(records)

            trial = functools.partial(_run_trial, _TrialSettings(config.home, tuning.metric, points))
            result = run_sweep(sweep, journal, planner, trial, budget=budget, on_change=changed)
            return self._finish(sweep, space, result, page)

    def _open_dataset(self, on_stage: Callable[[str, float], None] | None) -> tuple[Config, Splits]:
        """The rows, built if need be, once for all trials."""
        dataset = self.config.dataset
        if dataset.mixture:
            return self.config, open_mixture(dataset.mixture, seed=self.config.seed)[0]
        if dataset.path is not None:
            return self.config, open_dataset(Path(dataset.path))
        path = create_dataset(self.config, self.registry, on_progress=on_stage).path.absolute()
        built = dataset.model_copy(update={"path": str(path)})
        return self.config.model_copy(update={"dataset": built}), open_dataset(path)

    def _automatic(self, config: Config, journal: Journal, num_rows: int) -> AutoSpace:
        """What AutoML searches; a sweep that goes on keeps to what it began with."""
        methods = _fitting_methods(config, self.registry)
        taken = [key for key in _AUTO_KEYS if _is_set(config, key)]
        made = automatic_space(
            methods=methods,
            linear_modules=inspect_architecture(self.base).linear_modules,
            num_rows=num_rows,
            taken=taken,
        )
        if journal.facts is not None and journal.facts["facts"].get("auto"):
            known = {key: Domain.parse(one) for key, one in journal.facts["facts"]["parameters"].items()}
            return replace(made, domains=known)
        return made

    def _facts(self, config: Config, space: Space, splits: Splits, *, is_auto: bool) -> SweepFacts:
        tuning = config.tuning
        kept = {"fine_tuning", "base_model", "seed"}
        facts = {
            "auto": is_auto,
            "parameters": {key: domain.to_dict() for key, domain in space.domains.items()},
            "search": tuning.search,
            "scheduler": tuning.scheduler,
            "early_stopping": tuning.early_stopping.model_dump(mode="json"),
            "dataset": splits.digest,
            "base": {key: value for key, value in space.base.items() if key in kept},
        }
        return SweepFacts(config.name, tuning.metric, tuning.lower_is_better, facts)

    def _finish(self, sweep: Sweep, space: Space, result: SweepResult, page: _Page) -> TunedModel:
        """Write what was found, and put the best where it belongs."""
        config = None
        if result.best is not None:
            config = space.point(result.best.values).config
            assert config is not None  # noqa: S101 - it was trained
            self._publish(sweep, result)
            whole = {key: one for key, one in resolved(config).items() if key != "tuning"}
            text = yaml.safe_dump(whole, sort_keys=False)
            _write(self.folder / "best.yaml", f"# llamafarm models train --config {self.folder / 'best.yaml'}\n{text}")
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
        assert best is not None  # noqa: S101 - the caller looked
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
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def register_tuned(registry: RegistryApi, config: Config, tuned: TunedModel) -> VersionRecord:
    """Register the best model under the configuration's name, with the sweep and the trial it comes from.

    Raises:
        InputError: no trial finished.
    """
    if tuned.path is None or tuned.result.best is None:
        raise InputError("No trial finished, so there is nothing to register.", hint="Give the sweep more time.")
    asked = Registration(
        folder=tuned.path,
        name=config.name,
        version=config.version,
        domain=config.domain,
        description=config.description,
        license=config.license,
        tags=config.tags,
        run=f"sweep {tuned.folder.name}, trial {tuned.result.best.number}",
    )
    return register(registry, asked)


_AUTO_KEYS: Final = (
    "fine_tuning.method",
    "fine_tuning.parameters.r",
    "fine_tuning.parameters.target_modules",
    "fine_tuning.training.learning_rate",
    "fine_tuning.training.lr_scheduler",
    "fine_tuning.training.epochs",
)


@dataclass(frozen=True, slots=True)
class _Points:
    """Where trials are compared: each after the same number of training rows, whatever its batch size.

    Args:
        rows: between two comparisons.
        count: of the longest trial.
    """

    rows: float
    count: int

    @classmethod
    def of(cls, config: Config, space: Space, *, num_rows: int) -> _Points:
        """The points of ``tuning.early_stopping``."""
        training = config.fine_tuning.training
        epochs = max(_ends(space, "fine_tuning.training.epochs", training.epochs))
        longest = epochs * num_rows
        max_steps = _ends(space, "fine_tuning.training.max_steps", training.max_steps)
        if None not in max_steps:
            longest = min(longest, max(max_steps) * max(_window_rows(config, space)))
        rows = longest * config.tuning.early_stopping.first_after
        return cls(rows, max(1, math.floor(longest / rows + 1e-9)))

    def every_steps(self, config: Config) -> int:
        """Optimizer steps of a trial between two comparisons."""
        training = config.fine_tuning.training
        workers = config.fine_tuning.distributed.num_workers or 1
        window = training.batch_size * training.gradient_accumulation_steps * workers
        return training.evaluate_every_steps or max(1, round(self.rows / window))


def _ends(space: Space, key: str, set_to: Any) -> Sequence[Any]:
    """The values of a key where it is searched (a range's ends), else what it is set to."""
    domain = space.domains.get(key)
    return domain.values[:2] if domain and not domain.is_list else domain.values if domain else (set_to,)


def _window_rows(config: Config, space: Space) -> list[int]:
    """Rows of an optimizer step, of the smallest and the largest one."""
    training = config.fine_tuning.training
    batch = _ends(space, "fine_tuning.training.batch_size", training.batch_size)
    accumulation = _ends(
        space, "fine_tuning.training.gradient_accumulation_steps", training.gradient_accumulation_steps
    )
    workers = max(_num_workers(config, space))
    return [pick(batch) * pick(accumulation) * workers for pick in (min, max)]


def _num_workers(config: Config, space: Space) -> list[int]:
    given = _ends(space, "fine_tuning.distributed.workers", config.fine_tuning.distributed.num_workers)
    return [max(one) if isinstance(one, tuple) else one or 1 for one in given]


def _num_trials(config: Config) -> int | None:
    """As configured; else as many as a budget or a grid has room for, else 20."""
    tuning = config.tuning
    if tuning.num_trials is not None or tuning.budget is not None or tuning.search == "grid":
        return tuning.num_trials
    return _DEFAULT_TRIALS


def _finished_seconds(records: Mapping[int, Record]) -> list[float]:
    return [record.seconds for record in records.values() if record.value is not None]


def _concurrent(config: Config, space: Space, cores: int | None) -> int:
    """How many trials run at once."""
    hardware = find_hardware()
    most = max(_num_workers(config, space))
    distributed = config.fine_tuning.distributed
    if "fine_tuning.distributed.workers" in space.domains:
        distributed = distributed.model_copy(update={"workers": most})
    workers = choose_workers(distributed, hardware)
    needs = TrialNeeds(workers.num_workers, workers.num_cpus, 1.0 if workers.use_gpu else 0.0)
    nodes = [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    wanted = config.tuning.max_concurrent
    if wanted is None and cores is not None and not workers.use_gpu:
        wanted = max(1, cores // workers.num_workers)
    return num_concurrent(nodes, needs, most=wanted)


def _fitting_methods(config: Config, registry: RegistryApi) -> list[str]:
    """What fits this machine's or cluster's devices by estimate, and is served by vLLM; lora where nothing is known."""
    has_gpu = find_hardware().num_gpus > 0
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
    here: Any = base_table(config)
    for name in key.split("."):
        if not isinstance(here, dict) or name not in here:
            return False
        here = here[name]
    return True


def _with_whole_paths(config: Config) -> Config:
    """Trials run in processes that may be elsewhere, so folders are named in full."""
    dataset, changes = config.dataset, dict[str, Any]()
    if dataset.path is not None:
        whole = str(Path(dataset.path).expanduser().absolute())
        changes["dataset"] = dataset.model_copy(update={"path": whole})
    if config.base_model and Path(config.base_model).expanduser().is_dir():
        changes["base_model"] = str(Path(config.base_model).expanduser().absolute())
    return config.model_copy(update=changes)


def _default_folder(config: Config) -> Path:
    home = registry_home(config.home)
    if not home.is_local:
        raise InputError(
            f"The home {home.uri} is no folder of this machine, and a sweep's state has to be in one.",
            hint="Name a folder that all nodes share with --output.",
        )
    return Path(home.root) / "tuning" / config.name


def _made_by(output: Path) -> str:
    """The sweep that made a model's folder; empty if none did."""
    try:
        record = json.loads((output / "training.json").read_text(encoding="utf-8"))
        return str(record["lineage"]["sweep"]["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@dataclass(slots=True)
class _Page:
    """The sweep's page and table, written as it goes."""

    run: TuningRun
    space: Space
    facts: SweepFacts
    journal: Journal
    reasons: list[str] = field(default_factory=list)
    _written_at: float = -math.inf
    _seen: int = -1

    def write(self, *, live: bool = False, ended_because: str = "", seconds: float = 0.0) -> list[str]:
        """Write ``report.html`` and ``trials.jsonl``; while the sweep runs, not all the time. Returns the words."""
        records = list(self.journal.records.values())
        ended = sum(record.state != "running" for record in records)
        if live and (ended == self._seen or time.monotonic() - self._written_at < _PAGE_S):
            return []
        self._seen, self._written_at = ended, time.monotonic()
        ranked = best_of(self.journal.records, lower_is_better=self.facts.lower_is_better)
        words = explain(records, ranked, self.space.domains, metric=self.facts.metric)
        order = [*ranked, *(record for record in records if record not in ranked)]
        lines = [json.dumps(record.to_dict(), ensure_ascii=False) + "\n" for record in order]
        _write(self.run.folder / "trials.jsonl", "".join(lines))
        page = SweepPage(
            name=self.facts.name,
            metric=self.facts.metric,
            lower_is_better=self.facts.lower_is_better,
            domains=self.space.domains,
            records=records,
            ranked=ranked,
            words=words,
            reasons=self.reasons,
            ended_because="" if live else ended_because,
            seconds=seconds,
            is_running=live,
        )
        write_page(self.run.folder / "report.html", page)
        return words


@dataclass(frozen=True, slots=True)
class _TrialSettings:
    """What every trial's process is told.

    Args:
        home: of the registry.
        metric: what decides.
        points: where trials are compared; None if they aren't.
    """

    home: str | None
    metric: str
    points: _Points | None


def _run_trial(settings: _TrialSettings, config: Config, output: Path, report: Report) -> Mapping[str, float]:
    """Train one trial, in a process of the cluster; one that was interrupted goes on from its last checkpoint."""
    finished = output / "training.json"
    if finished.is_file():  # its driver was killed before it could say so
        metrics: dict[str, float] = json.loads(finished.read_text(encoding="utf-8"))["metrics"]
        return metrics
    folder = RunFolder(output.parent / f".{output.name}.run")
    _wait_until_free(folder)
    watch = None
    if settings.points is not None:
        every = settings.points.every_steps(config)
        training = config.fine_tuning.training
        update = {"evaluate_every_steps": every}
        if training.checkpoint_every_steps is None:
            update["checkpoint_every_steps"] = every
        tuning = config.fine_tuning.model_copy(update={"training": training.model_copy(update=update)})
        config = config.model_copy(update={"fine_tuning": tuning})
        watch = _Watcher(folder.output / "history.jsonl", settings.metric, every, report)
    run = TrainingRun.prepare(config, open_registry(settings.home), output=output)
    return run.run(on_progress=watch.step if watch else None).result.metrics


def _wait_until_free(folder: RunFolder) -> None:
    """The driver of an earlier attempt may still be ending. What goes wrong here, the run itself will say."""
    until = time.monotonic() + _OLD_RUN_ENDS_S
    while folder.lock.exists() and time.monotonic() < until:
        with try_exclusive(folder.lock) as is_free:
            if is_free:
                return
        time.sleep(_LOOK_S)


class _Watcher:
    """Says a trial's metric at each point of comparison.

    Validation losses come from the run's history, others are the mean of what the steps since the last point said.

    Args:
        history: of the run, as it is written.
        metric: what decides.
        every: steps between two points.
        report: where to say it.
    """

    def __init__(self, history: Path, metric: str, every: int, report: Report) -> None:
        self._history = history
        self._metric = metric
        self._every = every
        self._report = report
        self._said: set[int] = set()
        self._recent: list[float] = []
        self._looked_at = 0.0

    def step(self, progress: Progress) -> None:
        """Take a step of the run."""
        if self._metric == "validation_loss":
            if time.monotonic() - self._looked_at >= _LOOK_S:
                self._looked_at = time.monotonic()
                self._look(progress.total_steps)
            return
        value = progress.loss if self._metric == "train_loss" else progress.metrics.get(self._metric)
        if value is not None:
            self._recent.append(value)
        if progress.step % self._every == 0 and self._recent:
            self._say(progress.step, sum(self._recent) / len(self._recent))
            self._recent = []

    def _look(self, total_steps: int) -> None:
        for validation in History.read(self._history, total_steps=total_steps).validations:
            if validation.step % self._every == 0 and math.isfinite(validation.loss):
                self._say(validation.step, validation.loss)

    def _say(self, step: int, value: float) -> None:
        point = step // self._every
        if point not in self._said:
            self._said.add(point)
            self._report(point, value)
