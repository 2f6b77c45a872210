"""A run's page: curves, settings and what happened, in one file that needs no network."""

from llamafarm_ray.training.monitoring.report.page import RunPage, write_report

__all__ = ["RunPage", "write_report"]
