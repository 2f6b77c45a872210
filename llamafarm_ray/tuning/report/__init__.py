"""A sweep's page: the results and every trial, in one file that needs no network."""

from llamafarm_ray.tuning.report.page import SweepPage, write_page

__all__ = ["SweepPage", "write_page"]
