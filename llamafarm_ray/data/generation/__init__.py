"""Making questions and answers from passages. In this release by rules, which need no model."""

from llamafarm_ray.data.generation.rules import NO_RULES, GenerateByRules

__all__ = ["NO_RULES", "GenerateByRules"]
