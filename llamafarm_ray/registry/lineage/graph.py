"""Nodes and edges of lineage, and the part of it around one node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llamafarm_ray.errors import InputError

__all__ = ["SAME", "Direction", "Edge", "Graph", "Kind", "Lineage", "Node", "parse_direction"]

Direction = Literal["up", "down", "both"]
Kind = Literal["model", "base", "dataset", "document", "config", "run", "deployment"]

SAME = "has the same content as"
"""The relation of names with equal bytes. It holds in both directions, and is the only one that does."""


@dataclass(frozen=True, slots=True)
class Node:
    """A source or a result: ``id`` is unique, ``label`` is its name for people."""

    id: str
    kind: Kind
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """A step from a result (``source``) to its origin (``target``); ``relation`` reads in that order."""

    source: str
    target: str
    relation: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A part of the lineage around ``root``."""

    root: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass
class Lineage:
    """The lineage of everything in a state."""

    nodes: dict[str, Node] = field(default_factory=dict)
    made_from: dict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))
    made_into: dict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))

    def add(self, node: Node) -> str:
        """Add a node unless it is there, and return its id."""
        self.nodes.setdefault(node.id, node)
        return node.id

    def link(self, source: str, target: str, relation: str) -> None:
        """Add an edge."""
        edge = Edge(source, target, relation)
        self.made_from[source].append(edge)
        self.made_into[target].append(edge)

    def link_same(self, ids: Sequence[str]) -> None:
        """Link nodes of equal bytes with each other, through the first of them."""
        for other in ids[1:]:
            self.link(ids[0], other, SAME)
            self.link(other, ids[0], SAME)

    def sources_of(self, ids: Iterable[str]) -> set[str]:
        """Return the nodes of these ids and everything that they were made from."""
        waiting = list(ids)
        seen = set(waiting)
        while waiting:
            found = {edge.target for edge in self.made_from.get(waiting.pop(), ())} - seen
            seen |= found
            waiting += found
        return seen

    def around(self, root: str, direction: Direction) -> Graph:
        """Return the sources of ``root`` (down), its results (up), or both, but no other results of its sources."""
        edges: dict[Edge, None] = {}
        if direction != "up":
            self._follow(root, self.made_from, lambda edge: edge.target, edges)
        if direction != "down":
            self._follow(root, self.made_into, lambda edge: edge.source, edges)
        ids = dict.fromkeys([root, *(end for edge in edges for end in (edge.source, edge.target))])
        return Graph(root, tuple(self.nodes[key] for key in ids), tuple(edges))

    @staticmethod
    def _follow(root: str, links: dict[str, list[Edge]], end: Callable[[Edge], str], found: dict[Edge, None]) -> None:
        waiting, seen = [root], {root}
        while waiting:
            for edge in links.get(waiting.pop(), ()):
                found[edge] = None
                if end(edge) not in seen:
                    seen.add(end(edge))
                    waiting.append(end(edge))


def parse_direction(text: str) -> Direction:
    """Return the direction of that name.

    Raises:
        InputError: there is none.
    """
    known: dict[str, Direction] = {"up": "up", "down": "down", "both": "both"}
    if text not in known:
        raise InputError(f"{text!r} is no direction.", hint="Use up, down or both.")
    return known[text]
