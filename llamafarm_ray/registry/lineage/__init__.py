"""Lineage: sources of a version down to its documents, and everything made from a document or dataset.

An edge points from a result to its source, as in W3C PROV (https://www.w3.org/TR/prov-o/). A node is one name: a
version, a dataset and its digest, a document's path and its digest. Names with equal bytes stay apart and are linked as
equal, so each inherits the lineage of the others.
"""

from llamafarm_ray.registry.lineage.graph import Direction, Edge, Graph, Node, parse_direction
from llamafarm_ray.registry.lineage.rendering import to_dot, to_json, to_text
from llamafarm_ray.registry.lineage.tracing import trace, trace_dataset, trace_document

__all__ = [
    "Direction",
    "Edge",
    "Graph",
    "Node",
    "parse_direction",
    "to_dot",
    "to_json",
    "to_text",
    "trace",
    "trace_dataset",
    "trace_document",
]
