"""Fine-tune a base model on a dataset, and write a folder with the model and its provenance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from llamafarm_ray import training
from llamafarm_ray.capacity import is_on_one_machine
from llamafarm_ray.config import Config, config_digest
from llamafarm_ray.data import MixedPart, Splits, check_dataset, open_dataset, open_mixture
from llamafarm_ray.data.report import Tell
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import BaseModel, DatasetRegistered, RegistryApi, SourceDocument
from llamafarm_ray.registry.commands import RegisterDataset
from llamafarm_ray.registry.usage import Work
from llamafarm_ray.storage.copying import check_output
from llamafarm_ray.telemetry.traces import step
from llamafarm_ray.workflows.accounting.metering import meter_of
from llamafarm_ray.workflows.datasets.create_dataset import check_source, create_dataset, dataset_name
from llamafarm_ray.workflows.datasets.tokens import token_store
from llamafarm_ray.workflows.governance.quotas import check_device_hours
from llamafarm_ray.workflows.inspection.base import CHECKPOINTS, fetch_base, usable_base
from llamafarm_ray.workflows.jobs.outputs import own_output

if TYPE_CHECKING:
    from llamafarm_ray.training import BeginWith, Progress, TokenStore, TrainingResult

__all__ = ["TrainedModel", "TrainingRun", "check_rows"]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A finished run: its folder and its record."""

    path: Path
    result: TrainingResult


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run that can start: everything that can be known to be wrong without a cluster was looked at.

    Attributes:
        registry: registry for datasets and the base model.
        output: the folder to write.
        restart: forget an unfinished run with this output instead of going on with it.
    """

    config: Config
    registry: RegistryApi
    base: BaseModel
    output: Path
    overwrite: bool
    restart: bool = False

    @classmethod
    def prepare(
        cls,
        config: Config,
        registry: RegistryApi,
        *,
        output: Path | None = None,
        overwrite: bool = False,
        restart: bool = False,
    ) -> Self:
        """Check a run before Ray is started or asked.

        Args:
            config: ``base_model``, ``dataset`` and ``fine_tuning`` count. Without ``dataset.path`` the dataset
                is built from ``dataset.source`` first.
            registry: registry for a base model.
            output: the folder to write; ``trained_models/NAME`` by default. See `own_output` for jobs.
            restart: forget an unfinished run with this output instead of going on with it.

        Raises:
            InputError: base model or dataset are missing or unusable.
            ConflictError: ``output`` is taken.
            PolicyError: the namespace has used its device hours of this month.
        """
        check_device_hours(registry, config.name)
        check_rows(config)
        target = own_output(output or Path("trained_models", config.name), config)
        check_output(target, overwrite=overwrite)
        return cls(config, registry, usable_base(config.base_model, registry), target, overwrite, restart)

    def run(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_stage: Tell | None = None,
        on_note: Callable[[str], None] | None = None,
        work: Work = "train",
        begin_with: BeginWith | None = None,
    ) -> TrainedModel:
        """Train. Needs a connected Ray.

        Args:
            on_progress: called in this thread as steps are done.
            on_stage: called in this thread as parts of a stage of the dataset's build are done.
            on_note: called with what else there is to say: where an unfinished run goes on, which worker was lost.
            work: the kind of work that its use of devices is counted as.
            begin_with: checkpoint of another run; None: the base model's weights.

        Raises:
            InputError: the dataset is unusable.
            TrainingError: the run failed.
        """
        with step("dataset"):
            name, splits, parts, tokens = self._open_dataset(on_stage)
        self.output.absolute().parent.mkdir(parents=True, exist_ok=True)
        home = self.registry.home
        lineage = {
            "base_model": self.base.reference,
            "base_digest": self.base.digest,
            "dataset": name,
            "dataset_digest": splits.digest,
            **({"mixture": [asdict(part) for part in parts]} if parts else {}),
            "config_digest": config_digest(self.config),
            "parameters": self.config.fine_tuning.parameters.model_dump(mode="json"),
        }
        meter = meter_of(self.registry.home, work, self.config.name)
        with step("train", {"llamafarm.model": self.config.name}), meter:
            inputs = training.TrainingInputs(
                splits.train,
                splits.validation,
                self.base.folder,
                lineage=lineage,
                fetch_base=functools.partial(fetch_base, self.base, home.uri),
                shared=None if home.is_local else f"{home.uri.rstrip('/')}/{CHECKPOINTS}",
                tokens=tokens,
                passes=splits.passes,
            )
            result = training.train(
                self.config,
                inputs,
                self.output,
                callbacks=training.TrainingCallbacks(on_progress, on_note, meter.add),
                overwrite=self.overwrite,
                restart=self.restart,
                begin_with=begin_with,
            )
        return TrainedModel(self.output, result)

    def _open_dataset(self, on_stage: Tell | None) -> tuple[str, Splits, list[MixedPart], TokenStore | None]:
        """Open the dataset, built if need be; a mixture is recorded, so that its documents can be traced."""
        dataset = self.config.dataset
        if not dataset.mixture:
            if dataset.path is None:
                path = create_dataset(self.config, self.registry, on_progress=on_stage).path
            else:
                path = Path(dataset.path).expanduser()
            ratio = dataset.validation.split_ratio
            splits = open_dataset(path, split_ratio=ratio, seed=self.config.seed)
            # Workers read tokens from the dataset's folder, which other nodes may not see.
            tokens = token_store(path, splits, self.config) if is_on_one_machine() else None
            return dataset_name(path), splits, [], tokens
        splits, parts = open_mixture(dataset.mixture, split_ratio=dataset.validation.split_ratio, seed=self.config.seed)
        name = f"{self.config.name[:80]}-mixture"
        registered = DatasetRegistered(
            name=name,
            digest=splits.digest,
            num_train=sum(part.num_taken for part in parts),
            num_validation=0 if splits.validation is None else splits.validation.count(),
            location="",
            documents=tuple(SourceDocument(**asdict(document)) for document in splits.documents),
        )
        self.registry.submit(RegisterDataset(registered), reason="train: a mixture")
        return name, splits, parts, None


def check_rows(config: Config) -> bool:
    """Read what can be read of the dataset without Ray.

    Returns:
        True if there will be validation rows.

    Raises:
        InputError: there is no dataset, or it is unusable.
    """
    dataset, ratio = config.dataset, config.dataset.validation.split_ratio
    if dataset.path is None and not dataset.mixture:
        if dataset.source.path is None:
            raise InputError(
                "There is nothing to train on: dataset.path, dataset.mixture and dataset.source.path are not set.",
                hint="Give a dataset with --dataset, or a folder of documents in the configuration.",
            )
        check_source(config)
        return dataset.validation.built_split_ratio > 0
    paths = [Path(path).expanduser() for path in dataset.mixture or [str(dataset.path)]]
    found = [check_dataset(path, split_ratio=ratio, seed=config.seed) for path in paths]  # all of them are checked
    return any(found)
