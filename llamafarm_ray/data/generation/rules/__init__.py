"""Questions and answers by grammar rules, for English prose: no model, no network, the same result every time."""

from llamafarm_ray.data.generation.rules.generate import NO_RULES, GenerateByRules

__all__ = ["NO_RULES", "GenerateByRules"]
