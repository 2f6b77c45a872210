"""Questions and answers from passages, by rules or by a model.

An engine that asks a model is a package here with a `WriterPlan`: `endpoint/` asks any OpenAI-compatible server.
`rules/` needs no model and runs where a document is read.
"""

from llamafarm_ray.data.generation.choice import Choice, choose_generator
from llamafarm_ray.data.generation.plans import plan_writer
from llamafarm_ray.data.generation.writer import PairWriter, WriterPlan, Written

__all__ = ["Choice", "PairWriter", "WriterPlan", "Written", "choose_generator", "plan_writer"]
