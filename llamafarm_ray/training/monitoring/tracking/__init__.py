"""Trackers of a run's numbers: TensorBoard always, Weights & Biases and MLflow on request."""

from llamafarm_ray.training.monitoring.tracking.base import Ending, Outcome, Record, RunInfo, Tracker, flat, record_of
from llamafarm_ray.training.monitoring.tracking.choice import Trackers

__all__ = ["Ending", "Outcome", "Record", "RunInfo", "Tracker", "Trackers", "flat", "record_of"]
