"""Machines of the connected Ray cluster: those that run, and those that its autoscaler may start."""

from llamafarm_ray.capacity.cluster import Machine, is_connected, is_on_one_machine, machines, total

__all__ = ["Machine", "is_connected", "is_on_one_machine", "machines", "total"]
