"""What is recorded of a run, and what raises an alert."""

from __future__ import annotations

from pydantic import Field

from llamafarm_ray.config.base import Section, section

__all__ = ["Alerting", "Monitoring"]


class Alerting(Section):
    """Limits that raise an alert."""

    loss_threshold: float | None = Field(default=None, gt=0, description="Alert when the loss rises by more than this.")
    quality_degradation: float | None = Field(
        default=None, gt=0, le=1, description="Alert when a metric falls by this share."
    )


class Monitoring(Section):
    """Where a run is recorded."""

    tensorboard: bool = Field(default=True, description="Write TensorBoard events beside the trained model.")
    wandb_project: str | None = Field(default=None, min_length=1, description="Weights & Biases project to record to.")
    mlflow_uri: str | None = Field(default=None, min_length=1, description="MLflow tracking server to record to.")
    alerting: Alerting = section(Alerting, "Limits that raise an alert.")
