"""Ray's token, which permits any code on a cluster: no other user of the machine may read it.

Ray writes ``~/.ray/auth_token`` with the permissions that all files get, mostly readable by everybody
(https://docs.ray.io/en/latest/ray-security/token-auth.html).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

__all__ = ["close_token", "make_token", "read_token", "token_file"]

logger = logging.getLogger(__name__)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_NUM_BYTES = 32  # as Ray makes them


def make_token() -> None:
    """Make the token of this user's local clusters, if there is none, and close it to others.

    Raises:
        OSError: the home folder can't be written.
    """
    path = token_file()
    is_rays_to_find = not any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if is_rays_to_find and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as made:  # nobody else can open it
            made.write(secrets.token_hex(_NUM_BYTES))
            made.flush()
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(made.name, path)
    close_token()


def close_token() -> None:
    """Remove others' permissions from the token's file; warn if that fails."""
    path = token_file()
    with contextlib.suppress(FileNotFoundError):
        if not path.stat().st_mode & _OTHERS:
            return
        try:
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        except OSError as error:
            logger.warning("Others can read Ray's token in %s, and that can't be changed: %s.", path, error.strerror)


def read_token() -> str:
    """Return the token that Ray takes in this environment; empty where there is none."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return os.environ["RAY_AUTH_TOKEN"].strip()
    try:
        return token_file().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def token_file() -> Path:
    """Return the file that Ray reads the token from where no variable holds it."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
