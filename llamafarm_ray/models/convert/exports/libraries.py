"""Libraries that only one format's conversion needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from llamafarm_ray.errors import UnsupportedError

__all__ = ["check_libraries"]


def check_libraries(names: Sequence[str], *, target: str, extra: str) -> None:
    """Check that the libraries of a conversion are installed.

    Args:
        names: of the modules.
        target: the format, as its makers write it.
        extra: the extra of this package that installs them.

    Raises:
        UnsupportedError: one is missing.
    """
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise UnsupportedError(
            f"A conversion to {target} needs {', '.join(missing)}, which is not installed.",
            hint=f"pip install 'llamafarm_ray[{extra}]'",
        )
