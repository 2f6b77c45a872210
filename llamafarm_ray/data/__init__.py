"""From documents to datasets: readers, steps, generation, formats and the build that runs them on Ray Data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamafarm_ray.data.build.applicable import check_settings
    from llamafarm_ray.data.build.estimate import PairsEstimate, estimate_pairs
    from llamafarm_ray.data.build.existing_rows import holds_rows, require_rows
    from llamafarm_ray.data.build.feedback_dataset import build_feedback_dataset, check_feedback
    from llamafarm_ray.data.build.pipeline import BuildOptions, build_dataset
    from llamafarm_ray.data.build.tasks import fits_one_process
    from llamafarm_ray.data.dataset import Splits, check_dataset, open_dataset
    from llamafarm_ray.data.expansion import engines_of
    from llamafarm_ray.data.mixing import MixedPart, open_mixture
    from llamafarm_ray.data.reading import built_documents
    from llamafarm_ray.data.report import BuildReport, source_lines
    from llamafarm_ray.data.rows import DocumentRecord
    from llamafarm_ray.data.sources.discover import discover

__all__ = [
    "BuildOptions",
    "BuildReport",
    "DocumentRecord",
    "MixedPart",
    "PairsEstimate",
    "Splits",
    "build_dataset",
    "build_feedback_dataset",
    "built_documents",
    "check_dataset",
    "check_feedback",
    "check_settings",
    "discover",
    "engines_of",
    "estimate_pairs",
    "fits_one_process",
    "holds_rows",
    "open_dataset",
    "open_mixture",
    "require_rows",
    "source_lines",
]

_HOME = {
    "BuildOptions": "build.pipeline",
    "BuildReport": "report",
    "DocumentRecord": "rows",
    "MixedPart": "mixing",
    "PairsEstimate": "build.estimate",
    "Splits": "dataset",
    "engines_of": "expansion",
    "build_dataset": "build.pipeline",
    "build_feedback_dataset": "build.feedback_dataset",
    "check_feedback": "build.feedback_dataset",
    "built_documents": "reading",
    "check_dataset": "dataset",
    "check_settings": "build.applicable",
    "discover": "sources",
    "estimate_pairs": "build.estimate",
    "fits_one_process": "build.tasks",
    "holds_rows": "build.existing_rows",
    "require_rows": "build.existing_rows",
    "open_dataset": "dataset",
    "open_mixture": "mixing",
    "source_lines": "report",
}


def __getattr__(name: str) -> object:
    # Who reads rows or documents in one process needs no Ray, which half of these modules import.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
