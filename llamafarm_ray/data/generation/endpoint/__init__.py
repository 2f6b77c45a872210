"""Pairs written by a model behind an OpenAI-compatible endpoint.

Each passage is one request. Failures that pass (429, 5xx, time-outs, cut answers) are tried again, limits of rate and
cost are kept, and each answer is stored as it arrives, so that a build that was killed asks for nothing twice. With
``endpoint.batch`` the requests go through the provider's batch API first.
"""

from llamafarm_ray.data.generation.endpoint.plan import EndpointPlan

__all__ = ["EndpointPlan"]
