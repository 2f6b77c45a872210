"""Making questions and answers from passages. In this release by rules, which need no model."""

from llamafarm_ray.data.generation.rules import GenerateByRules

__all__ = ["GenerateByRules"]
