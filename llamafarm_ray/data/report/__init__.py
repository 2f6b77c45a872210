"""The report of a build, as numbers and as a page, and its progress on the way."""

from llamafarm_ray.data.report.build import (
    BuildReport,
    DocumentCounts,
    Generator,
    Lengths,
    Sample,
    StepReport,
    source_lines,
)
from llamafarm_ray.data.report.page import report_page
from llamafarm_ray.data.report.progress import Stage, Tell, counting

__all__ = [
    "BuildReport",
    "DocumentCounts",
    "Generator",
    "Lengths",
    "Sample",
    "Stage",
    "StepReport",
    "Tell",
    "counting",
    "report_page",
    "source_lines",
]
