"""The one error tree. Errors of dependencies reach a caller as one of these.

::

    LlamaFarmError
    ├── UserError                what was asked can't be done as asked        exit status 2
    │   ├── ConfigError          a configuration has mistakes, all of them listed
    │   ├── InputError           a file, folder or value given is unusable
    │   ├── NotFoundError        a name, version or alias does not exist
    │   ├── ConflictError        it exists already, or changed meanwhile
    │   ├── AccessDeniedError    whoever asks may not do it, or can't prove who they are
    │   ├── PolicyError          a rule that the owners set forbids it
    │   └── UnsupportedError     understood, but no engine in this release does it
    └── InfrastructureError      what was asked is fine, something failed     exit status 1
        ├── ClusterError         Ray can't be reached or gave up
        ├── StorageError         a folder or bucket can't be read or written
        ├── IntegrityError       bytes are not what their digest says
        ├── TrainingError        a run failed
        └── DeploymentError      a deployment did not become or stay healthy

Every error carries a message that names the value, a hint that says what to do, a stable ``code`` for
programs, an exit status for the shell and an HTTP status for the server. All of them survive pickling,
because they cross Ray's process boundaries.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "AccessDeniedError",
    "ClusterError",
    "ConfigError",
    "ConflictError",
    "DeploymentError",
    "InfrastructureError",
    "InputError",
    "IntegrityError",
    "LlamaFarmError",
    "NotFoundError",
    "PolicyError",
    "StorageError",
    "TrainingError",
    "UnsupportedError",
    "UserError",
    "did_you_mean",
]


class LlamaFarmError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: one sentence: what happened, with which value.
        hint: next step; empty if the message has it.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(cls: type[LlamaFarmError], attributes: dict[str, object]) -> LlamaFarmError:
    error = cls.__new__(cls)
    Exception.__init__(error, attributes.get("message", ""))
    error.__dict__.update(attributes)
    return error


class UserError(LlamaFarmError):
    """Request that can't be done as asked; another request can help."""

    code = "user_error"
    exit_status = 2
    http_status = 400


class ConfigError(UserError):
    """A configuration has mistakes; ``problems`` holds them all, each starting with its dotted key.

    Args:
        source: the file (or command line) they were found in.
        problems: one line a mistake, ``"fine_tuning.parameters.r: must be greater than 0, not -1"``.
    """

    code = "invalid_config"

    def __init__(self, source: str, problems: Iterable[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{source} has {count} mistake{'s' if count != 1 else ''}:{lines}")


class InputError(UserError):
    """A file, folder or value that was given is unusable."""

    code = "invalid_input"


class NotFoundError(UserError):
    """A name, version or alias does not exist."""

    code = "not_found"
    http_status = 404


class ConflictError(UserError):
    """It exists already with other content, or it changed while the command ran."""

    code = "conflict"
    http_status = 409


class AccessDeniedError(UserError):
    """Caller without permission, or without proof of identity."""

    code = "access_denied"
    http_status = 403


class PolicyError(UserError):
    """A rule of the registry forbids it; ``rules`` names each that is not fulfilled."""

    code = "policy"
    http_status = 403

    def __init__(self, message: str, *, rules: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rules = rules


class UnsupportedError(UserError):
    """The configuration is understood, but this release has no engine for that part of it."""

    code = "unsupported"
    http_status = 501


class InfrastructureError(LlamaFarmError):
    """Failure of a service or resource that a correct request needs."""

    code = "infrastructure_error"


class ClusterError(InfrastructureError):
    """Ray can't be reached, or gave up on its work."""

    code = "cluster_error"
    http_status = 503


class StorageError(InfrastructureError):
    """A folder or bucket can't be read or written."""

    code = "storage_error"


class IntegrityError(InfrastructureError):
    """Bytes are not what their digest says."""

    code = "integrity_error"


class TrainingError(InfrastructureError):
    """A training run failed; ``hint`` says what remains of it."""

    code = "training_error"


class DeploymentError(InfrastructureError):
    """A deployment did not become, or stay, healthy."""

    code = "deployment_error"
    http_status = 503


_MAX_SHOWN = 8


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a failed look-up: the near names if there are any, else the first few known ones."""
    candidates = sorted(set(known))
    near = difflib.get_close_matches(name, candidates, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if not candidates:
        return "There are none yet."
    return f"There is: {', '.join(candidates[:_MAX_SHOWN])}{', ...' if len(candidates) > _MAX_SHOWN else ''}."
