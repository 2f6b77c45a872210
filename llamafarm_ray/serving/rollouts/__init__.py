"""Rollouts: how they begin, who gets which variant, what the variants' numbers prove, and what to do about it.

``beginning`` starts one in the registry. Nothing that decides does input or output but
:class:`RolloutController`, which joins the parts: ``split`` assigns requests, ``observations`` says what was seen of
both variants, ``sequential`` and ``guards`` weigh it, ``ab`` compares, ``controller`` decides, and ``progress`` tells
how it goes. The state of a rollout is the registry's (:class:`llamafarm_ray.registry.RolloutRecord`).
"""

from llamafarm_ray.serving.rollouts.controller import Decision, Move, RolloutController, decide
from llamafarm_ray.serving.rollouts.guards import Evidence
from llamafarm_ray.serving.rollouts.observations import Observations, Sample, Window
from llamafarm_ray.serving.rollouts.split import Caller, Variant

__all__ = [
    "Caller",
    "Decision",
    "Evidence",
    "Move",
    "Observations",
    "RolloutController",
    "Sample",
    "Variant",
    "Window",
    "decide",
]
