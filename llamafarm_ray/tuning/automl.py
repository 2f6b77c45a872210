"""Default search space: bounds that suit the data, and settings to try first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llamafarm_ray.config import LOW_RANK_METHODS, Domain
from llamafarm_ray.tuning.plan import Suggestion

__all__ = ["AutoSpace", "automatic_space"]

_METHOD: Final = "fine_tuning.method"
_RANK: Final = "fine_tuning.parameters.r"
_MODULES: Final = "fine_tuning.parameters.target_modules"
_RATE: Final = "fine_tuning.training.learning_rate"
_SCHEDULE: Final = "fine_tuning.training.lr_scheduler"
_EPOCHS: Final = "fine_tuning.training.epochs"

_FEW_ROWS, _MANY_ROWS = 1_000, 20_000
_ATTENTION: Final = ("q_proj", "v_proj")
"""The layers of LoRA's paper (Hu et al. 2021, section 7.1), where a model calls them so."""


@dataclass(frozen=True, slots=True)
class AutoSpace:
    """A search space that was made up.

    Args:
        domains: by key.
        first: settings tried before the search begins.
        reasons: reasons for its shape, a sentence each.
    """

    domains: dict[str, Domain]
    first: list[Suggestion]
    reasons: list[str]


def automatic_space(
    *, methods: Sequence[str], linear_modules: Sequence[str], num_rows: int, passes: int = 1, taken: Sequence[str] = ()
) -> AutoSpace:
    """The space for a model, a dataset and the methods that fit and can be served.

    Args:
        methods: the first one is tried first.
        passes: passes over the questions that they are written in; fewer epochs are as many passes.
        taken: keys that the user set, which are left alone.
    """
    usual = (2, 4, 8) if num_rows < _FEW_ROWS else (1, 2, 3) if num_rows < _MANY_ROWS else (1, 2)
    epochs = tuple(dict.fromkeys(math.ceil(each / passes) for each in usual))
    highest = 2e-4 if tuple(methods) == ("full",) else 2e-3
    reasons = [
        f"Methods that fit this hardware and can be served: {', '.join(methods)}.",
        f"{num_rows:,} training rows: {epochs[0]} to {epochs[-1]} passes over them.",
        f"Learning rates from 2e-05 to {highest:g}, evenly in their logarithm: the rate matters most of all settings.",
    ]
    domains: dict[str, Domain] = {
        _METHOD: Domain("choice", tuple(methods)),
        _RATE: Domain("log_uniform", (2e-5, highest)),
        _SCHEDULE: Domain("choice", ("cosine", "linear", "constant")),
        _EPOCHS: Domain("choice", tuple(float(one) for one in epochs)),
    }
    has_rank = any(method in LOW_RANK_METHODS for method in methods)
    if has_rank:
        domains[_RANK] = Domain("choice", (8, 16, 32, 64))
        reasons.append("Ranks 8 to 64: 64 is the highest that is served without reserving more memory.")
    if has_rank and all(name in linear_modules for name in _ATTENTION):
        domains[_MODULES] = Domain("choice", ("all-linear", _ATTENTION))
        reasons.append("All linear layers, or attention's q_proj and v_proj alone, which trains fewer weights.")
    domains = {key: domain for key, domain in domains.items() if key not in taken}
    if taken:
        reasons.append(f"As you set them: {', '.join(sorted(taken))}.")
    common: dict[str, object] = {_METHOD: methods[0], _RANK: 16, _MODULES: "all-linear", _SCHEDULE: "cosine"}
    rate = 2e-4 if methods[0] != "full" else 2e-5
    first = [
        Suggestion({**common, _RATE: rate, _EPOCHS: float(epochs[0])}, "the usual settings, briefly"),
        Suggestion({**common, _RATE: min(highest, 5 * rate), _EPOCHS: float(epochs[0])}, "the usual settings, faster"),
        Suggestion({**common, _RATE: rate, _EPOCHS: float(epochs[-1])}, "the usual settings, for longer"),
    ]
    return AutoSpace(domains, first, reasons)
