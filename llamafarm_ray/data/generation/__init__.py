"""Questions and answers from passages, by rules or by a model.

An engine that asks a model is a package here with a `WriterPlan`: `endpoint/` asks any OpenAI-compatible server.
`cluster/` runs a model in vLLM on the cluster's machines, which need no writer in an actor.
`rules/` needs no model and runs where a document is read.
"""

from llamafarm_ray.data.generation.choice import Choice, Generator, choose_generator, why_it_cannot_write
from llamafarm_ray.data.generation.plans import EnginePlan, Machine, plan_writer
from llamafarm_ray.data.generation.writer import PairWriter, WriterPlan, Written

__all__ = [
    "Choice",
    "EnginePlan",
    "Generator",
    "Machine",
    "PairWriter",
    "WriterPlan",
    "Written",
    "choose_generator",
    "plan_writer",
    "why_it_cannot_write",
]
