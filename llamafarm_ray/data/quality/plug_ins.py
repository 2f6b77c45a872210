"""Functions of a user's own that a configuration names as ``module:function``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from llamafarm_ray.errors import InputError

__all__ = ["load_function"]


@functools.cache
def load_function(name: str, key: str) -> Callable[..., Any]:
    """Return the function ``module:function``.

    Args:
        key: dotted key of the configuration that names it, for the error.

    Raises:
        InputError: there is no such function.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{key}: {name!r} can't be loaded ({error}).",
            hint="Name a function as module:function, in a module that can be imported on each node.",
        ) from error
    return found
