"""Make a dataset from documents or feedback, recorded in the registry with its sources."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.config import Config, DatasetConfig
from llamafarm_ray.data import (
    BuildOptions,
    BuildReport,
    DocumentRecord,
    PairsEstimate,
    build_dataset,
    build_feedback_dataset,
    built_documents,
    check_feedback,
    check_settings,
    discover,
    engines_of,
    estimate_pairs,
    fits_one_process,
    holds_rows,
    require_rows,
)
from llamafarm_ray.data.records import is_record_file, named_beside, stem_of
from llamafarm_ray.data.report import Tell
from llamafarm_ray.data.writing import require_local
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import DatasetRegistered, RegistryApi, SourceDocument
from llamafarm_ray.registry.commands import RegisterDataset
from llamafarm_ray.types import FEEDBACK_FOLDER
from llamafarm_ray.workflows.accounting.metering import meter_of
from llamafarm_ray.workflows.datasets.build_meters import measured
from llamafarm_ray.workflows.inspection.base import GENERATION_CACHE, fetch_everywhere, usable_base

if TYPE_CHECKING:
    from llamafarm_ray.training import PreparedTokens

__all__ = ["CreatedDataset", "check_source", "create_dataset", "dataset_name", "estimate_generation"]


@dataclass(frozen=True, slots=True)
class CreatedDataset:
    """A built dataset.

    Attributes:
        path: the folder or file that was written.
        report: outcome of the documents and examples.
        tokens: the rows as tokens of the base model, if they were asked for.
    """

    name: str
    path: Path
    report: BuildReport
    tokens: PreparedTokens | None = None

    @property
    def page(self) -> Path:
        """The report as a page."""
        if is_record_file(self.path):
            return named_beside(self.path, "report", ".html")
        return self.path / "report.html"


def create_dataset(
    config: Config,
    registry: RegistryApi,
    *,
    overwrite: bool = False,
    on_progress: Tell | None = None,
) -> CreatedDataset:
    """Build the dataset that ``dataset`` describes. Needs a connected Ray where `check_source` says so.

    Args:
        config: ``dataset.source.path`` is read, ``dataset.path`` is written.
        registry: registry for the dataset.
        overwrite: replace what is at ``dataset.path``.
        on_progress: called in this thread as parts of a stage are done.

    Raises:
        InputError: the source is missing, or holds nothing that can be used.
        ConflictError: there is another dataset at ``dataset.path``.
    """
    if config.dataset.source.type == "human_feedback":
        return _create_from_feedback(config, registry, overwrite=overwrite)
    check_source(config)
    output = Path(config.dataset.path or Path("datasets", config.name)).expanduser()
    name = dataset_name(output)
    base_model, dataset = _writing_models(config, registry)
    with meter_of(registry.home, "dataset", config.name, name=name) as meter:
        report = build_dataset(
            config.dataset.source.path or "",
            output,
            dataset,
            name=name,
            seed=config.seed,
            options=BuildOptions(
                progress=measured(name, on_progress),
                base_model=base_model,
                cache=_answers(registry),
                overwrite=overwrite,
                on_use=meter.add,
            ),
        )
    created = _registered(registry, output, report, built_documents(output))
    if not config.dataset.preprocessing.tokenize:
        return created
    from llamafarm_ray.workflows.datasets.tokens import prepare  # imports Ray Data: seconds

    return dataclasses.replace(created, tokens=prepare(config, registry, output))


def _writing_models(config: Config, registry: RegistryApi) -> tuple[str | None, DatasetConfig]:
    """Return the base model and the ``dataset`` section, with folders in place of the models that shall write."""
    dataset, base_model = _dataset_of(config), config.base_model
    engines = engines_of(dataset, base_model=base_model, environment=os.environ)
    qa = dataset.preprocessing.qa_generation
    if "vllm" in engines and qa.vllm.model is not None:
        vllm = qa.vllm.model_copy(update={"model": _folder_everywhere(qa.vllm.model, registry)})
        preprocessing = dataset.preprocessing.model_copy(update={"qa_generation": qa.model_copy(update={"vllm": vllm})})
        dataset = dataset.model_copy(update={"preprocessing": preprocessing})
    if "base_model" in engines or ("vllm" in engines and qa.vllm.model is None):
        base_model = _folder_everywhere(base_model, registry)
    return base_model, dataset


def _folder_everywhere(model: str | None, registry: RegistryApi) -> str:
    """Return the folder of a model on every node."""
    base = usable_base(model, registry)
    fetch_everywhere(base, registry.home.uri)
    return str(base.folder)


def _dataset_of(config: Config) -> DatasetConfig:
    """Return the ``dataset`` section, with ``base_model`` in place of the base model's own name."""
    synthetic = config.dataset.synthetic_generation
    if synthetic.base_model is None or synthetic.base_model != config.base_model:
        return config.dataset
    renamed = synthetic.model_copy(update={"base_model": "base_model"})
    return config.dataset.model_copy(update={"synthetic_generation": renamed})


def estimate_generation(config: Config, registry: RegistryApi) -> PairsEstimate:
    """Estimate an endpoint's requests, tokens and cost. Needs no Ray, sends nothing.

    Args:
        config: see `create_dataset`.
        registry: its home has the answers of earlier builds.

    Raises:
        InputError: the source is missing, holds nothing that can be used, or no endpoint writes anything.
    """
    check_source(config)
    if config.dataset.source.type == "human_feedback":
        raise InputError("There is no cost to estimate: rows of feedback need no model.")
    return estimate_pairs(
        config.dataset.source.path or "", _dataset_of(config), cache=_answers(registry), base_model=config.base_model
    )


def _answers(registry: RegistryApi) -> str:
    return f"{registry.home.uri.rstrip('/')}/{GENERATION_CACHE}"


def _create_from_feedback(config: Config, registry: RegistryApi, *, overwrite: bool) -> CreatedDataset:
    check_source(config)
    output = Path(config.dataset.path or "").expanduser()
    report, documents = build_feedback_dataset(
        str(config.dataset.source.path or f"{registry.home.uri}/{FEEDBACK_FOLDER}"),
        output,
        config.dataset,
        objective=config.fine_tuning.objective,
        seed=config.seed,
        name=dataset_name(output),
        overwrite=overwrite,
    )
    return _registered(registry, output, report, documents)


def _registered(
    registry: RegistryApi, output: Path, report: BuildReport, documents: Iterable[DocumentRecord]
) -> CreatedDataset:
    registered = DatasetRegistered(
        name=report.name,
        digest=report.digest,
        num_train=report.num_train,
        num_validation=report.num_validation,
        location=str(output.resolve()),
        documents=tuple(SourceDocument(**dataclasses.asdict(document)) for document in documents),
    )
    registry.submit(RegisterDataset(registered), reason="create-dataset")
    return CreatedDataset(report.name, output, report)


def check_source(config: Config) -> bool:
    """Look at the documents' folder, or at what feedback is wanted for, before Ray is started or asked.

    Returns:
        True if the build needs Ray: a model in the cluster writes, rows become tokens, or the documents are more than
        one process reads.

    Raises:
        InputError: it is not set, missing, or holds no document of a type that can be read; or the model that shall
            write the pairs can't be asked; or the output is a URI, or no file for rows made from feedback.
    """
    if config.dataset.path is not None:
        require_local(config.dataset.path)
    if config.dataset.preprocessing.tokenize and config.dataset.path and is_record_file(Path(config.dataset.path)):
        raise InputError(
            f"dataset.preprocessing.tokenize is true, but the output {config.dataset.path!r} is a file.",
            hint="Name a folder, which has room for tokens, or leave the key out.",
        )
    if config.dataset.source.type == "human_feedback":
        check_feedback(config.dataset, config.fine_tuning.objective)
        if isinstance(config.dataset.source.path, tuple):
            raise InputError("dataset.source.path is a list.", hint="Feedback is read from one folder or URI.")
        if Path(config.dataset.path or "").suffix.lower() not in {".json", ".jsonl"}:
            raise InputError("Rows made from feedback are a file.", hint="Name it: --output feedback.jsonl.")
        return False
    if config.dataset.source.path is None:
        raise InputError("dataset.source.path is not set.", hint="Give the documents' folder with --source.")
    engines = engines_of(_dataset_of(config), base_model=config.base_model, environment=os.environ, has_gpu=True)
    from_rows = holds_rows(config.dataset, config.dataset.source.path)
    check_settings(config.dataset, from_rows=from_rows)
    if from_rows:
        require_rows(config.dataset.source.path)
        return config.dataset.preprocessing.tokenize or bool(engines & {"base_model", "vllm"})
    sources = discover(config.dataset.source.path)
    writes_by_model = bool(engines - {"rules"})
    return config.dataset.preprocessing.tokenize or writes_by_model or not fits_one_process(sources.files)


def dataset_name(path: Path) -> str:
    """Return a dataset's name: its file's or folder's, in the letters that names may have."""
    stem = stem_of(path) if is_record_file(path) else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "dataset"
