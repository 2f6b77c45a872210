"""Regular expressions of an adapter's configuration, tried in a process of their own before they are used here.

Python's ``re`` can take hours for a short expression, such as ``((a+)+)+b``, and nothing else in the process runs
meanwhile: no other version would answer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.adapters.config import AdapterConfig

__all__ = ["check_patterns"]

_CPU_S = 1.0
"""Seconds of computing for all expressions and modules; usual ones take a thousandth of it."""
_REPEATS = re.compile(r"[*+?{]")
_TRY = """
import json, re, signal, sys
seconds, patterns, names = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_PROF, seconds)
for pattern in patterns:
    for name in names:
        re.match(pattern, name)
        re.fullmatch(pattern, name)
"""
_SHOWN = 80


def check_patterns(config: AdapterConfig, modules: Iterable[str]) -> None:
    """Check that an adapter's expressions can be matched with the names of a model's modules.

    Raises:
        InputError: they take too long.
    """
    named = (config.values.get(key) for key in ("target_modules", "exclude_modules"))
    wholes = [one for one in named if isinstance(one, str) and _REPEATS.search(one)]
    ends = [one for one in _parts_of_names(config) if _REPEATS.search(one)]
    if not wholes and not ends:
        return
    tried = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TRY],
        input=json.dumps([_CPU_S, [*wholes, *(rf"(.*\.)?({end})($|\..*)" for end in ends)], list(modules)]),
        text=True,
        capture_output=True,
        check=False,
    )
    if tried.returncode != 0:
        shown = ", ".join(repr(pattern)[:_SHOWN] for pattern in (*wholes, *ends))
        why = "takes too long" if tried.returncode < 0 else "fails"  # a signal ended it
        raise InputError(
            f"adapter_config.json: matching {shown} with the names of the base model's modules {why}.",
            hint="List the names of the modules instead, or write the expression without repeats of repeats.",
        )


def _parts_of_names(config: AdapterConfig) -> Iterator[str]:
    """Yield the expressions that peft puts into larger ones."""
    yield from (*config.rank_pattern, *config.alpha_pattern)
    for key in ("modules_to_save", "layers_pattern"):
        value = config.values.get(key)
        yield from [value] if isinstance(value, str) else [one for one in value or () if isinstance(one, str)]
