"""Questions and answers by grammar rules, for English prose: no model, no network, the same result every time."""

from llamafarm_ray.data.generation.rules.generate import GenerateByRules

__all__ = ["GenerateByRules"]
