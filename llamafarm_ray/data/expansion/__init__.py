"""Examples beside those of the source: invented ones, and changed copies, of the training split alone.

Each names its parent in its provenance. Nothing is made of a held-out example, and what repeats any example of either
split is dropped, so that no row is in another split than its parent.
"""

from llamafarm_ray.data.expansion.plan import Expansion, engines_of, expansion_models, plan_expansion

__all__ = ["Expansion", "engines_of", "expansion_models", "plan_expansion"]
