"""From documents to datasets: readers, steps, generation, formats and the build that runs them on Ray Data."""

from llamafarm_ray.data.dataset import Splits, check_dataset, open_dataset
from llamafarm_ray.data.feedback_dataset import build_feedback_dataset, rows_maker
from llamafarm_ray.data.mixing import MixedPart, open_mixture
from llamafarm_ray.data.pipeline import build_dataset
from llamafarm_ray.data.report import BuildReport, source_lines
from llamafarm_ray.data.rows import DocumentRecord
from llamafarm_ray.data.sources import discover

__all__ = [
    "BuildReport",
    "DocumentRecord",
    "MixedPart",
    "Splits",
    "build_dataset",
    "build_feedback_dataset",
    "check_dataset",
    "discover",
    "open_dataset",
    "open_mixture",
    "rows_maker",
    "source_lines",
]
