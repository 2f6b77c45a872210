"""Monitoring of a run: records and alerts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Section, Unused, as_tuple, section

__all__ = ["AlertEmail", "Alerting", "Monitoring", "StopKind", "WandbMode"]

StopKind = Literal["loss_threshold", "quality_degradation", "divergence"]
"""Alerts that can end a run early. Of the others, a loss that is no number ends it anyway."""

WandbMode = Literal["online", "offline"]

_ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_ADDRESS = r"^[^@\s]+@[^@\s]+$"
_Address = Annotated[str, Field(pattern=_ADDRESS)]


class AlertEmail(Section):
    """Addresses for alerts by e-mail, and the server that takes the mail."""

    to: Annotated[tuple[_Address, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        description="Addresses that get the alerts."
    )
    sender: _Address = Field(description="Address that the alerts come from.")
    server: str = Field(min_length=1, description="Host name of the SMTP server.")
    port: int = Field(default=587, ge=1, le=65535, description="TCP port of the SMTP server.")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="Encryption: after the greeting (port 587), from the first byte (port 465), or none.",
    )
    username: str | None = Field(default=None, min_length=1, description="Name to log in with; unset: no login.")
    password_env: str | None = Field(
        default=None, pattern=_ENVIRONMENT_NAME, description="Environment variable that holds the password."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """A login takes a name and a password, and no plain line."""
        if (self.username is None) != (self.password_env is None):
            here, there = ("username", "password_env") if self.username else ("password_env", "username")
            yield Mistake((here, there), "is set, but {1} is not; a login needs both.")
        if self.username is not None and self.security == "none":
            yield Mistake(("security", "username"), "is none, which would send the password of {1} in the clear.")


class Alerting(Section):
    """Limits that raise an alert, the places it is sent to, and the kinds that end the run."""

    loss_threshold: float | None = Field(
        default=None,
        gt=0,
        description="Alert when the loss rises by more than this above the lowest it was; both smoothed over steps.",
    )
    quality_degradation: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Alert when a metric falls by this share of its best value; a loss counts as falling when it "
        "rises. Training watches the validation loss.",
    )
    divergence: bool = Field(
        default=True, description="Alert when the loss is above where it began, and half as much again as its lowest."
    )
    stall_s: float | None = Field(
        default=600.0, gt=0, le=86400, description="Alert when no step ended for this many seconds; null: never."
    )
    stop: bool | Annotated[tuple[StopKind, ...], BeforeValidator(as_tuple)] = Field(
        default=False,
        description="End the run early and keep the weights trained so far: at any of loss_threshold, "
        "quality_degradation and divergence (true), or at those listed.",
    )
    webhook: str | None = Field(
        default=None, pattern=r"^https?://\S+$", description="URL that alerts are posted to as JSON, as Slack takes it."
    )
    webhook_env: str | None = Field(
        default=None,
        pattern=_ENVIRONMENT_NAME,
        description="Environment variable that holds the webhook's URL, where the URL is a secret, as Slack's are.",
    )
    email: AlertEmail | None = Field(default=None, description="Mail the alerts as well.")

    @property
    def stop_kinds(self) -> tuple[StopKind, ...]:
        """The alerts that end the run."""
        if isinstance(self.stop, bool):
            return get_args(StopKind) if self.stop else ()
        return self.stop

    def mistakes(self) -> Iterator[Mistake]:
        """Yield kinds in ``stop`` that no limit can raise."""
        if isinstance(self.stop, bool):
            return
        for kind in self.stop:
            if getattr(self, kind) in {None, False}:
                yield Mistake(("stop", kind), f"lists {kind}, which {{1}} leaves unset.")

    def unused(self) -> Mapping[str, Unused]:
        """A webhook has one URL."""
        if self.webhook is None:
            return {}
        return {"webhook_env": Unused("webhook", "is set beside {1}, which says the same; keep one of them.")}


class Monitoring(Section):
    """Records of a run."""

    tensorboard: bool = Field(default=True, description="Write TensorBoard events beside the trained model.")
    wandb_project: str | None = Field(default=None, min_length=1, description="Weights & Biases project to record to.")
    wandb_entity: str | None = Field(
        default=None, min_length=1, description="Weights & Biases team or user of the project; unset: one's own."
    )
    wandb_mode: WandbMode | None = Field(
        default=None,
        description="'offline' writes a folder for `wandb sync` and needs no network; unset: $WANDB_MODE, or online.",
    )
    mlflow_uri: str | None = Field(default=None, min_length=1, description="MLflow tracking server to record to.")
    mlflow_experiment: str | None = Field(
        default=None, min_length=1, description="MLflow experiment to record to; unset: the configuration's name."
    )
    alerting: Alerting = section(Alerting, "Conditions of alerts, and their destinations.")
