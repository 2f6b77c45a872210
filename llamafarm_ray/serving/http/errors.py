"""The refusals that only HTTP has a word for: branches of the one error tree (:mod:`llamafarm_ray.errors`)."""

from __future__ import annotations

from llamafarm_ray.errors import AccessDeniedError, InputError, LlamaFarmError, NotFoundError, UserError

__all__ = [
    "BodyTooLargeError",
    "ColdStartError",
    "ContextLengthError",
    "FieldError",
    "HeadersTooLargeError",
    "HostError",
    "LimitError",
    "MediaTypeError",
    "ModelNotFoundError",
    "SlowClientError",
    "UnauthenticatedError",
    "param_of",
]


class FieldError(InputError):
    """A field of a request is missing, or has a value that is refused.

    Args:
        param: the field's name, OpenAI's ``param``.
        hint: next step.
    """

    def __init__(self, message: str, *, param: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class ContextLengthError(FieldError):
    """A prompt with its answer is longer than the model, or a limit, has room for."""

    code = "context_length_exceeded"


class ModelNotFoundError(NotFoundError):
    """The model that a request names is not served here."""

    code = "model_not_found"
    param = "model"


def param_of(error: LlamaFarmError) -> str | None:
    """Return the field of the request that an error is about, where it is about one."""
    return error.param or None if isinstance(error, FieldError | ModelNotFoundError) else None


class UnauthenticatedError(AccessDeniedError):
    """No key was given, or it is worth nothing (any more)."""

    code = "invalid_api_key"
    http_status = 401


class HostError(AccessDeniedError):
    """A request without a key came under a name that is not this server's."""

    code = "host_not_allowed"


class SlowClientError(InputError):
    """A request's body did not arrive in time."""

    code = "request_timeout"
    http_status = 408


class BodyTooLargeError(InputError):
    """A request's body has more bytes than is allowed."""

    code = "request_too_large"
    http_status = 413


class HeadersTooLargeError(InputError):
    """A request has more headers, or longer ones, than is allowed."""

    code = "headers_too_large"
    http_status = 431


class MediaTypeError(InputError):
    """A request's body is of a type, or in an encoding, that is not read."""

    code = "unsupported_media_type"
    http_status = 415


class LimitError(UserError):
    """A limit of the key, or of the replica, is reached.

    Args:
        retry_after_s: seconds until asking again can succeed.
        hint: next step.
    """

    code = "rate_limit_exceeded"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ColdStartError(LlamaFarmError):
    """No replica runs yet, and no more requests wait for it, or not for longer.

    Args:
        message: the exceeded limit.
        retry_after_s: seconds until asking again makes sense.
    """

    code = "model_starting"
    http_status = 503

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint="Ask again later.")
        self.retry_after_s = retry_after_s
