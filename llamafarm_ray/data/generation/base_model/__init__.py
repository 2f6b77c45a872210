"""The base model itself as the writer of pairs: it learns the craft from lessons, then writes and checks itself."""

from llamafarm_ray.data.generation.base_model.plan import BaseModelPlan

__all__ = ["BaseModelPlan"]
