"""Alerts of a run: pure detectors, and channels that deliver."""

from llamafarm_ray.training.monitoring.alerts.channels import (
    Channel,
    Destinations,
    EmailChannel,
    LogChannel,
    Notice,
    WebhookChannel,
)
from llamafarm_ray.training.monitoring.alerts.delivery import Delivery
from llamafarm_ray.training.monitoring.alerts.detectors import (
    Alert,
    AlertKind,
    EarlyStopping,
    Limits,
    RunWatch,
    Smoothed,
)

__all__ = [
    "Alert",
    "AlertKind",
    "Channel",
    "Delivery",
    "Destinations",
    "EarlyStopping",
    "EmailChannel",
    "Limits",
    "LogChannel",
    "Notice",
    "RunWatch",
    "Smoothed",
    "WebhookChannel",
]
