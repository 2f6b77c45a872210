"""A command's environment and folder for the workers of a Ray that stays.

A Ray that a command starts has workers with the command's environment variables and current folder. One that stays was
started in another terminal: its workers take them over from a file of mode 0600, since variables hold keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from llamafarm_ray.clusters.forked_worker import SOCKET_VARIABLE

__all__ = ["adopt", "as_adopted", "runtime_environment"]

_FILE = "LLAMAFARM_DRIVER_ENVIRONMENT"
_OF_A_PROCESS = {"_", "LLAMAFARM_LOCAL_RAY", "OLDPWD", "PWD", "SHLVL", SOCKET_VARIABLE, _FILE}
_RAYS = ("RAY_", "__RAY_", "CUDA_VISIBLE_", "HIP_VISIBLE_", "ROCR_VISIBLE_", "TT_VISIBLE_", "ASCEND_")
"""Ray sets these for each worker."""


def runtime_environment(folder: Path) -> dict[str, object]:
    """Return the ``runtime_env`` for a driver whose workers shall have this process's variables and current folder.

    Args:
        folder: of the Ray; this user's alone.
    """
    variables = {name: value for name, value in os.environ.items() if not _is_the_workers(name)}
    written = json.dumps({"folder": str(Path.cwd()), "variables": variables}, sort_keys=True).encode()
    path = folder / f"environment-{hashlib.sha256(written).hexdigest()[:16]}.json"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(written)
        made.replace(path)
    return {"worker_process_setup_hook": f"{__name__}.adopt", "env_vars": {_FILE: str(path)}}


def adopt() -> None:
    """Take over the variables and the current folder of this worker's driver; Ray calls it as the worker starts."""
    given = json.loads(Path(os.environ[_FILE]).read_bytes())
    variables = as_adopted(os.environ)
    for name in [name for name in os.environ if name not in variables]:
        del os.environ[name]
    os.environ.update(variables)
    with contextlib.suppress(OSError):  # a deployment's worker may start after its driver's folder is gone
        os.chdir(given["folder"])
    for path in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)


def as_adopted(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker once it has taken over its driver's.

    Args:
        variables: that the worker is started with; without a driver's file, they are returned as they are.
    """
    if _FILE not in variables:
        return dict(variables)
    drivers: dict[str, str] = json.loads(Path(variables[_FILE]).read_bytes())["variables"]
    return {name: value for name, value in variables.items() if _is_the_workers(name)} | drivers


def _is_the_workers(name: str) -> bool:
    return name in _OF_A_PROCESS or name.startswith(_RAYS)
