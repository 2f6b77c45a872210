"""From documents to datasets: readers, steps, generation, formats and the build that runs them on Ray Data."""

from llamafarm_ray.data.dataset import Splits, built_documents, check_dataset, open_dataset
from llamafarm_ray.data.estimate import PairsEstimate, estimate_pairs
from llamafarm_ray.data.feedback_dataset import build_feedback_dataset, rows_maker
from llamafarm_ray.data.generation import choose_generator
from llamafarm_ray.data.mixing import MixedPart, open_mixture
from llamafarm_ray.data.pipeline import build_dataset
from llamafarm_ray.data.report import BuildReport
from llamafarm_ray.data.rows import DocumentRecord
from llamafarm_ray.data.sources import discover

__all__ = [
    "BuildReport",
    "DocumentRecord",
    "MixedPart",
    "PairsEstimate",
    "Splits",
    "build_dataset",
    "build_feedback_dataset",
    "built_documents",
    "check_dataset",
    "choose_generator",
    "discover",
    "estimate_pairs",
    "open_dataset",
    "open_mixture",
    "rows_maker",
]
