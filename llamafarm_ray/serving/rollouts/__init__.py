"""Rollouts: start, evidence of the variants' requests, and the decision to go on, promote or roll back.

``start`` records one in the registry. ``fleet`` collects what replicas measured, ``ratings`` users' feedback.
``sequential`` and ``guards`` weigh the evidence, ``ab`` compares the variants, ``controller`` decides, and ``progress``
reports. Only :class:`RolloutController` does input and output. ``mirror`` copies requests to a shadow. The registry
holds the state of a rollout (:class:`llamafarm_ray.registry.RolloutRecord`).
"""

from llamafarm_ray.serving.rollouts.controller import Decision, Move, RolloutController, decide
from llamafarm_ray.serving.rollouts.guards import Evidence

__all__ = [
    "Decision",
    "Evidence",
    "Move",
    "RolloutController",
    "decide",
]
