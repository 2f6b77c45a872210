"""An evaluation's page: scores, slices and the worst answers, in one file that needs no network."""

from llamafarm_ray.evaluation.report.page import ResultPage, write_report

__all__ = ["ResultPage", "write_report"]
