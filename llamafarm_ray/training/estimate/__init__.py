"""Memory, time and cost of a run before it starts, from first principles. Needs no Ray, no weights, mostly no torch."""

from llamafarm_ray.training.estimate.before import check_before_start
from llamafarm_ray.training.estimate.duration import DurationEstimate, estimate_duration, flops_per_token
from llamafarm_ray.training.estimate.fit import MARGIN, Alternative, check_fits, find_alternatives, verdict
from llamafarm_ray.training.estimate.machine import Machine, available_memory_bytes
from llamafarm_ray.training.estimate.memory import MemoryEstimate, estimate_memory
from llamafarm_ray.training.estimate.recommend import Option, recommend
from llamafarm_ray.training.estimate.setup import Setup
from llamafarm_ray.training.estimate.shape import ModelShape
from llamafarm_ray.training.estimate.tables import Device, Tables, read_tables

__all__ = [
    "MARGIN",
    "Alternative",
    "Device",
    "DurationEstimate",
    "Machine",
    "MemoryEstimate",
    "ModelShape",
    "Option",
    "Setup",
    "Tables",
    "available_memory_bytes",
    "check_before_start",
    "check_fits",
    "estimate_duration",
    "estimate_memory",
    "find_alternatives",
    "flops_per_token",
    "read_tables",
    "recommend",
    "verdict",
]
