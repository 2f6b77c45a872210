"""Requests of lm-eval, rebuilt from their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval.api.instance import Instance

from llamafarm_ray.evaluation.benchmarks.backends import RequestKind

if TYPE_CHECKING:
    from lm_eval.api.model import LM

__all__ = ["ask_lm"]


def ask_lm(lm: LM, kind: RequestKind, requests: Sequence[Sequence[object]]) -> list[object]:
    """Return the answers of one of lm-eval's models, in the requests' order."""
    instances = [Instance(kind, {}, tuple(arguments), number) for number, arguments in enumerate(requests)]
    return list(getattr(lm, kind)(instances, disable_tqdm=True))
