"""Lineage as a tree for a terminal, for Graphviz, and for programs."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict

from llamafarm_ray.registry.lineage.graph import SAME, Graph, Node

__all__ = ["to_dot", "to_json", "to_text"]

_SHAPES = {"model": "box", "base": "box3d", "dataset": "cylinder", "document": "note", "deployment": "component"}


def to_text(graph: Graph) -> str:
    """Draw the graph as a tree for a terminal: the sources of the root, then (``◄``) its results."""
    return "\n".join(_Tree(graph).lines())


class _Tree:
    """Draws a graph as a tree; a node is unfolded once."""

    def __init__(self, graph: Graph) -> None:
        self._root = graph.root
        self._nodes = {node.id: node for node in graph.nodes}
        self._down: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._up: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._same = {(edge.source, edge.target) for edge in graph.edges if edge.relation == SAME}
        for edge in graph.edges:
            self._down[edge.source].append((f"{edge.relation} ", edge.target))
            mark = f"{SAME} " if edge.relation == SAME else "◄ "
            self._up[edge.target].append((mark, edge.source))
        self._drawn = {graph.root}

    def lines(self) -> list[str]:
        """Return the whole tree."""
        branches = [
            *((mark, node, self._down) for mark, node in self._down[self._root]),
            *((mark, node, self._up) for mark, node in self._up[self._root] if (self._root, node) not in self._same),
        ]
        drawn = [_line(self._nodes[self._root])]
        for number, (mark, node, links) in enumerate(branches):
            first, *rest = self._branch(node, links, self._root)
            drawn += _indented([f"{mark}{first}", *rest], is_last=number == len(branches) - 1)
        return drawn

    def _branch(self, node: str, links: dict[str, list[tuple[str, str]]], parent: str) -> list[str]:
        if node in self._drawn:
            return [f"{_line(self._nodes[node])}{' (see above)' if links[node] else ''}"]
        self._drawn.add(node)
        lines = [_line(self._nodes[node])]
        children = [link for link in links[node] if link[1] != parent or (node, parent) not in self._same]
        for number, (mark, child) in enumerate(children):
            first, *rest = self._branch(child, links, node)
            lines += _indented([f"{mark}{first}", *rest], is_last=number == len(children) - 1)
        return lines


def _indented(lines: list[str], *, is_last: bool) -> list[str]:
    first, *rest = lines
    return [f"{'└─' if is_last else '├─'} {first}", *(f"{'  ' if is_last else '│ '} {line}" for line in rest)]


def _line(node: Node) -> str:
    return f"{node.label} ({node.detail or node.kind})"


def to_dot(graph: Graph) -> str:
    """Write the graph for Graphviz (https://graphviz.org/doc/info/lang.html)."""
    lines = ["digraph lineage {", "  rankdir=BT;"]
    for node in graph.nodes:
        label = "\n".join(filter(None, (node.label, node.detail)))
        bold = ", penwidth=2" if node.id == graph.root else ""
        lines.append(f"  {_quoted(node.id)} [label={_quoted(label)}, shape={_SHAPES.get(node.kind, 'ellipse')}{bold}];")
    lines += [f"  {_quoted(e.source)} -> {_quoted(e.target)} [label={_quoted(e.relation)}];" for e in graph.edges]
    return "\n".join([*lines, "}"])


def to_json(graph: Graph) -> dict[str, object]:
    """Return the graph for programs."""
    return asdict(graph)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
