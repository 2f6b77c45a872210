"""A model that writes pairs in vLLM on the machines of the cluster, through `ray.data.llm`."""

from llamafarm_ray.data.generation.cluster.plan import VllmPlan

__all__ = ["VllmPlan"]
