"""Requests to a running endpoint: tried again where a failure may pass, and answered by the right version."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

from llamafarm_ray.errors import AccessDeniedError, InfrastructureError, InputError, NotFoundError
from llamafarm_ray.evaluation.engines.served import Endpoint

__all__ = ["EndpointClient"]

_PASSING: Final = {408, 409, 425, 429}
_FORBIDDEN: Final = {401, 403}
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_LONGEST_WAIT_S: Final = 30.0
_SHOWN_CHARS: Final = 200
_VERSION: Final = re.compile(r"[^:#@]+:\d+\.\d+\.\d+[^:#@]*")
"""A reference that a deployment of this package answers as."""


class EndpointClient:
    """Client of an endpoint.

    Args:
        first_wait_s: wait after the first failure of a request; each further one doubles it.
    """

    def __init__(self, endpoint: Endpoint, first_wait_s: float = 0.5) -> None:
        self.endpoint = endpoint
        self._first_wait_s = first_wait_s
        key = os.environ.get(endpoint.api_key_env, "")
        limits = httpx.Limits(max_connections=endpoint.concurrency)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=endpoint.timeout_s, limits=limits)

    def choice(self, route: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Return the first choice of a greedy answer; failures that pass are tried again.

        Args:
            route: ``completions`` or ``chat/completions``.
            body: the request without its model.

        Raises:
            AccessDeniedError: the key is missing or not accepted.
            NotFoundError: there is no such model or path.
            InputError: the endpoint refuses the request, or answers as another version.
            InfrastructureError: all attempts failed.
        """
        endpoint = self.endpoint
        sent = {"model": endpoint.model, "temperature": 0, "seed": 0, **body}
        failure = ""
        for attempt in range(endpoint.max_attempts):
            if attempt:
                time.sleep(min(_LONGEST_WAIT_S, self._first_wait_s * 2.0 ** (attempt - 1)))
            try:
                response = self._http.post(f"{endpoint.base_url.rstrip('/')}/{route}", json=sent)
            except (httpx.TransportError, httpx.InvalidURL, httpx.DecodingError) as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if response.status_code != httpx.codes.OK:
                failure = self._passing_failure(response)
                continue
            try:
                answered = response.json()
                choice: dict[str, object] = answered["choices"][0]
            except (ValueError, KeyError, IndexError, TypeError):
                failure = f"an answer that is no completion: {response.text[:_SHOWN_CHARS]!r}"
                continue
            self._check_version(str(answered.get("model") or ""))
            return choice
        raise InfrastructureError(
            f"The endpoint {endpoint.base_url} gave no answer in {endpoint.max_attempts} attempts; the last one: "
            f"{failure}.",
            hint="Look at the server's log, and run it again.",
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _check_version(self, answered: str) -> None:
        """Refuse the answer of another version than the one that is evaluated: an alias may have moved."""
        version = answered.partition("#")[0]
        wanted = self.endpoint.version
        if wanted and version != wanted and _VERSION.fullmatch(version):
            raise InputError(
                f"The endpoint {self.endpoint.base_url} answers as {version}, and {wanted} is evaluated.",
                hint=f"Set evaluation.endpoint.model to {wanted}, or evaluate {version}.",
            )

    def _passing_failure(self, response: httpx.Response) -> str:
        """Return the name of a failure that may pass; raise one that won't."""
        status, where = response.status_code, f"The endpoint {self.endpoint.base_url}"
        said = f"HTTP {status}: {' '.join(response.text.split())[:_SHOWN_CHARS]}"
        if status in _FORBIDDEN:
            hint = f"Set {self.endpoint.api_key_env}."
            raise AccessDeniedError(f"{where} does not accept the key ({said}).", hint=hint)
        if status == _NOT_FOUND:
            raise NotFoundError(
                f"{where} has no model {self.endpoint.model!r}, or no completions ({said}).",
                hint="Set evaluation.endpoint.model to the name that it serves.",
            )
        if status not in _PASSING and status < _SERVER_ERROR:
            raise InputError(f"{where} refuses a request ({said}).", hint="Its log may say why.")
        return said
