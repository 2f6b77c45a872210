"""Channels of alerts: the log, a webhook, e-mail."""

from __future__ import annotations

import logging
import math
import os
import smtplib
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from typing import Final, Protocol
from urllib.parse import urlsplit

from llamafarm_ray.config import AlertEmail, Alerting
from llamafarm_ray.errors import UserError
from llamafarm_ray.training.monitoring.alerts.detectors import Alert

__all__ = ["Channel", "Destinations", "EmailChannel", "LogChannel", "Message", "Notice", "WebhookChannel"]

_log = logging.getLogger("llamafarm_ray.training.monitoring.alerts")
_TIMEOUT_S: Final = 10.0
_WAITS_S: Final = (0.0, 1.0, 4.0)
_TEXT_ALONE: Final = "hooks.slack.com"  # refuses fields that it doesn't know
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429


class Message(Protocol):
    """A message for people and programs."""

    @property
    def title(self) -> str:
        """One line."""

    @property
    def text(self) -> str:
        """All of it, for people."""

    @property
    def footer(self) -> str:
        """A line below the text of a mail that names its subject."""

    @property
    def details(self) -> Mapping[str, object]:
        """Plain values for programs."""


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert on its way.

    Args:
        stops: True if the run ends because of it.
    """

    alert: Alert
    run: str
    run_id: str
    stops: bool = False

    @property
    def title(self) -> str:
        """One line."""
        return f"llamafarm run {self.run}: {self.alert.kind.replace('_', ' ')} at step {self.alert.step}"

    @property
    def text(self) -> str:
        """All of it, for people."""
        ending = " The run ends early, with the weights trained so far." if self.stops else ""
        return f"{self.alert.text}{ending}"

    @property
    def footer(self) -> str:
        """The run."""
        return f"Run: {self.run} ({self.run_id})"

    @property
    def details(self) -> Mapping[str, object]:
        """The alert and the run."""
        return {"alert": _finite(asdict(self.alert)), "run": {"name": self.run, "id": self.run_id}}


class Channel(Protocol):
    """One way to tell people."""

    @property
    def name(self) -> str:
        """For messages."""

    def send(self, notice: Message) -> None:
        """Deliver, in bounded time.

        Raises:
            OSError: it was not delivered.
        """


@dataclass(frozen=True, slots=True)
class LogChannel:
    """The log of the first worker."""

    name: str = "log"

    def send(self, notice: Message) -> None:
        """Write a warning."""
        _log.warning("%s: %s", notice.title, notice.text)


@dataclass(frozen=True, slots=True)
class WebhookChannel:
    """A JSON document by HTTP POST: ``text`` for Slack and its like, the message's details for programs.

    Args:
        url: may hold a secret, so it is never shown.
        waits_s: before each attempt.
        timeout_s: of each part of an attempt.
    """

    url: str = field(repr=False)
    waits_s: tuple[float, ...] = _WAITS_S
    timeout_s: float = _TIMEOUT_S

    @property
    def name(self) -> str:
        """For messages, without the secret part."""
        return f"webhook {urlsplit(self.url).hostname}"

    def send(self, notice: Message) -> None:
        """Post it; again where the server could not be reached or was at fault.

        Raises:
            OSError: no attempt got a 2xx answer.
        """
        import httpx  # each worker of a run would take half a second to import it

        body: dict[str, object] = {"text": f"*{notice.title}*\n{notice.text}"}
        if urlsplit(self.url).hostname != _TEXT_ALONE:
            body |= notice.details
        problem = ""
        for wait_s in self.waits_s:
            time.sleep(wait_s)
            try:
                response = httpx.post(self.url, json=body, timeout=self.timeout_s)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = type(error).__name__  # its text can hold the URL
                continue
            if response.is_success:
                return
            problem = f"status {response.status_code}"
            if response.status_code < _SERVER_ERROR and response.status_code != _TOO_MANY:
                break
        raise OSError(f"no delivery: {problem}")


@dataclass(frozen=True, slots=True)
class EmailChannel:
    """A plain text mail, by SMTP (RFC 5321), encrypted and logged in as configured.

    Args:
        settings: server and addresses.
        password: of the login; None for none.
        waits_s: before each attempt.
        timeout_s: of each answer of the server.
    """

    settings: AlertEmail
    password: str | None = field(default=None, repr=False)
    waits_s: tuple[float, ...] = _WAITS_S
    timeout_s: float = _TIMEOUT_S

    @property
    def name(self) -> str:
        """For messages."""
        return f"e-mail by {self.settings.server}"

    def send(self, notice: Message) -> None:
        """Send it; again where the server could not be reached.

        Raises:
            OSError: no attempt was accepted.
        """
        message = EmailMessage()
        message["Subject"] = " ".join(notice.title.split())
        message["From"] = self.settings.sender
        message["To"] = ", ".join(self.settings.to)
        message.set_content(f"{notice.text}\n\n{notice.footer}\n")
        problem: OSError | None = None
        for wait_s in self.waits_s:
            time.sleep(wait_s)
            try:
                self._deliver(message)
            except (smtplib.SMTPAuthenticationError, smtplib.SMTPNotSupportedError, smtplib.SMTPRecipientsRefused):
                raise  # another attempt ends the same way
            except OSError as error:  # smtplib's errors are too
                problem = error
            else:
                return
        assert problem is not None  # each attempt returns, raises or leaves one
        raise problem

    def _deliver(self, message: EmailMessage) -> None:
        settings = self.settings
        if settings.security == "tls":
            context = ssl.create_default_context()
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                settings.server, settings.port, timeout=self.timeout_s, context=context
            )
        else:
            server = smtplib.SMTP(settings.server, settings.port, timeout=self.timeout_s)
        with server:
            if settings.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if settings.username is not None:
                server.login(settings.username, self.password or "")
            server.send_message(message)


@dataclass(frozen=True, slots=True)
class Destinations:
    """Destinations of a run's alerts, with the secrets from the driver's environment.

    Args:
        password: of the mail server.
    """

    alerting: Alerting
    webhook: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def find(cls, alerting: Alerting, environment: Mapping[str, str] | None = None) -> Destinations:
        """Read the secrets.

        Args:
            environment: the process's by default.

        Raises:
            UserError: a variable that the configuration names is not set.
        """
        known = os.environ if environment is None else environment
        webhook, password = alerting.webhook, None
        if alerting.webhook_env is not None:
            webhook = _secret(known, "monitoring.alerting.webhook_env", alerting.webhook_env)
            if urlsplit(webhook).scheme not in {"http", "https"}:
                raise UserError(
                    f"The environment variable {alerting.webhook_env} (monitoring.alerting.webhook_env) holds no URL.",
                    hint="It has to begin with https:// or http://.",
                )
        if alerting.email is not None and alerting.email.password_env is not None:
            password = _secret(known, "monitoring.alerting.email.password_env", alerting.email.password_env)
        return cls(alerting, webhook, password)

    def channels(self, *, log: bool = True) -> Iterable[Channel]:
        """The log, and the configured channels.

        Args:
            log: False for a process whose log says it anyway.
        """
        if log:
            yield LogChannel()
        if self.webhook is not None:
            yield WebhookChannel(self.webhook)
        if self.alerting.email is not None:
            yield EmailChannel(self.alerting.email, self.password)


def _secret(environment: Mapping[str, str], key: str, name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UserError(f"{key}: the environment variable {name} is not set.", hint="Set it, or leave the key out.")
    return value


def _finite(values: Mapping[str, object]) -> dict[str, object]:
    """JSON has no NaN: such numbers as texts."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
