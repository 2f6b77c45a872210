"""HTTP for downloads: one pool of connections, redirects followed without secrets, failures with a name."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from llamafarm_ray import __version__
from llamafarm_ray.errors import AccessDeniedError, InputError, LlamaFarmError, NotFoundError, StorageError
from llamafarm_ray.storage.downloads.addresses import origin, shown
from llamafarm_ray.storage.downloads.credentials import Credentials, bearer_variable
from llamafarm_ray.storage.downloads.remote import Answer, Patience, TransientError

__all__ = ["Refusal", "Web", "WebFile", "trusted_authorities"]

Refusal = Callable[[httpx.Response], LlamaFarmError | None]
"""Turns a refusal into an error, for sources that report more than a status."""

T = TypeVar("T")

_MAX_REDIRECTS = 10
_MAX_TEXT_BYTES = 64 * 1024 * 1024
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_PARTIAL, _OK, _NOT_SATISFIABLE = 206, 200, 416
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@functools.cache
def trusted_authorities() -> ssl.SSLContext:
    """Return the trusted authorities, shared: reading them takes each client a tenth of a second."""
    return httpx.create_ssl_context()


class Web:
    """A client whose requests are tried again and whose secrets stay with their origin.

    Args:
        credentials: credentials for each origin.
        patience: limits of time and tries.
        connections: number of connections at once.
    """

    def __init__(self, credentials: Credentials, patience: Patience, connections: int = 8) -> None:
        self.credentials = credentials
        self.patience = patience
        self._client = httpx.Client(
            follow_redirects=False,
            verify=trusted_authorities(),
            timeout=httpx.Timeout(patience.read_s, connect=patience.connect_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),
            headers={"User-Agent": f"llamafarm/{__version__}", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextlib.contextmanager
    def get(
        self, url: str, headers: Mapping[str, str] | None = None, *, refusal: Refusal = lambda _: None
    ) -> Iterator[httpx.Response]:
        """Ask for a URL; the answer's body is not read yet.

        Args:
            headers: headers besides the credentials.
            refusal: called with an answer that says no.

        Raises:
            TransientError: another try may succeed.
            LlamaFarmError: none will.
        """
        response = None
        try:
            response = self._send(url, headers or {})
            _check(response, url, refusal, has_secret=self.credentials.has(url))
            yield response
        except httpx.TransportError as error:
            raise _transport_error(error, url) from None
        finally:
            if response is not None:
                response.close()

    def text(self, url: str, headers: Mapping[str, str] | None = None, *, refusal: Refusal = lambda _: None) -> Text:
        """Return a small answer, tried again with growing pauses.

        Raises:
            LlamaFarmError: it can't be had.
        """

        def ask() -> Text:
            with self.get(url, headers, refusal=refusal) as response:
                return Text(_limited(response), response.headers, str(response.url))

        return self.again(shown(url), ask)

    def again(self, what: str, ask: Callable[[], T]) -> T:
        """Return a request's answer, tried again with growing pauses.

        Raises:
            LlamaFarmError: it can't be had.
        """
        failures = 0
        while True:
            try:
                return ask()
            except TransientError as error:
                failures += 1
                if failures >= self.patience.attempts:
                    raise given_up(what, error, failures) from None
                time.sleep(self.patience.wait_s(failures, error.wait_s))

    def _send(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        for _ in range(_MAX_REDIRECTS):
            try:
                request = self._client.build_request("GET", url, headers={**headers, **self.credentials.header(url)})
                response = self._client.send(request, stream=True)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise InputError(f"{shown(url)!r} is no usable address.", hint="Give an https:// URL.") from None
            if not response.has_redirect_location:
                return response
            target = urljoin(url, response.headers["location"])
            response.close()
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise StorageError(
                    f"{shown(url)} redirects to {origin(target)}, which is not encrypted.",
                    hint="Use an address that stays with https://.",
                )
            url = target
        raise StorageError(f"{shown(url)} redirects more than {_MAX_REDIRECTS} times.", hint="Check the address.")


class Text:
    """A small answer: its bytes, headers, and the URL that gave it in the end."""

    def __init__(self, body: bytes, headers: httpx.Headers, url: str) -> None:
        self.body = body
        self.headers = headers
        self.url = url

    def json(self) -> Any:
        """Return the JSON value.

        Raises:
            StorageError: it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise StorageError(
                f"{shown(self.url)} did not answer with JSON.", hint="Check that the address is that of the service."
            ) from None


class WebFile:
    """A file at a URL.

    Args:
        refusal: makes an error of an answer that says no.
    """

    def __init__(self, web: Web, url: str, *, refusal: Refusal = lambda _: None) -> None:
        self._web = web
        self._url = url
        self._refusal = refusal
        self._resolved: str | None = None
        self.shown = shown(url)

    @contextlib.contextmanager
    def read(self, begin: int, end: int) -> Iterator[Answer]:
        """Ask for a range of bytes, at the place that the first answer was redirected to."""
        headers = {"Range": f"bytes={begin}-{end - 1}"}
        resolved = self._resolved
        url = resolved or self._url
        try:
            with self._web.get(url, headers, refusal=self._refusal) as response:
                self._resolved = str(response.url)
                yield _answer(response, begin, self.shown)
        except (AccessDeniedError, NotFoundError):
            if resolved is None or resolved == self._url:
                raise
            self._resolved = None  # a signed address that expired: ask the first one for another
            raise TransientError("answered that its address expired") from None


def given_up(what: str, error: TransientError, failures: int) -> StorageError:
    """Make the error of something that failed too often."""
    return StorageError(
        f"{what} {error.reason}, {failures} times in a row.",
        hint="Check the network and try again later: what is finished is kept.",
    )


def _answer(response: httpx.Response, begin: int, name: str) -> Answer:
    if encoding := response.headers.get("content-encoding", "identity").lower().replace("identity", ""):
        raise StorageError(
            f"{name} is sent compressed ({encoding}) though it was asked for as it is.",
            hint="Use an address that serves the file itself.",
        )
    validator = response.headers.get("etag") or response.headers.get("last-modified", "")
    if response.status_code == _OK:
        length = response.headers.get("content-length", "")
        return Answer(0, int(length) if length.isdecimal() else None, validator, _raw(response), is_range=False)
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    size = int(match[3]) if match and match[3] != "*" else None
    if response.status_code == _NOT_SATISFIABLE:
        return Answer(begin, size, validator, iter(()))
    if match is None or match[1] is None or int(match[1]) != begin:
        raise TransientError(f"answered 206 with the range {response.headers.get('content-range', '')!r}")
    return Answer(begin, size, validator, _raw(response))


def _raw(response: httpx.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except httpx.TransportError as error:
        raise _transport_error(error, str(response.url)) from None


def _check(response: httpx.Response, url: str, refusal: Refusal, *, has_secret: bool) -> None:
    status = response.status_code
    if status in {_OK, _PARTIAL, _NOT_SATISFIABLE}:
        return
    if status in _TRANSIENT:
        raise TransientError(f"answered {status}", _retry_after_s(response.headers.get("retry-after", "")))
    if known := refusal(response):
        raise known
    host = urlsplit(url).hostname or ""
    if status in {401, 403}:
        raise AccessDeniedError(
            f"{shown(url)} answered {status}: "
            f"{'the credentials for it are not accepted' if has_secret else 'it asks for credentials'}.",
            hint=f"Set {bearer_variable(host)} to a token, or put a login for {host} into ~/.netrc.",
        )
    if status in {404, 410}:
        raise NotFoundError(f"{shown(url)} answered {status}: there is no such file.", hint="Check the address.")
    raise StorageError(f"{shown(url)} answered {status}.", hint="Check the address.")


def _transport_error(error: httpx.TransportError, url: str) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return StorageError(
                f"The certificate of {origin(url)} is not trusted: {cause.verify_message}.",
                hint="Name its authority's certificate in SSL_CERT_FILE.",
            )
        cause = cause.__cause__ or cause.__context__
    match error:
        case httpx.TimeoutException():
            return TransientError("did not answer in time")
        case httpx.ConnectError():
            return TransientError("can't be reached")
        case httpx.UnsupportedProtocol():
            return InputError(f"{shown(url)!r} is no usable address.", hint="Give an https:// URL.")
        case httpx.ProxyError():
            return TransientError("can't be reached through the proxy")
    return TransientError("cut the connection")


def _retry_after_s(text: str) -> float | None:
    if text.strip().isdecimal():
        return float(text)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _limited(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_TEXT_BYTES:
            raise StorageError(f"{shown(str(response.url))} answered with more than {_MAX_TEXT_BYTES} bytes.")
    return bytes(body)
