"""What was made from what: from a version down to the documents it learnt from, and from a document up.

An edge points from what was made to what it was made from, as in W3C PROV (https://www.w3.org/TR/prov-o/).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry.events import DatasetRegistered
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.types import ModelRef

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

Direction = Literal["up", "down", "both"]
Kind = Literal["model", "base", "dataset", "document", "config", "run", "deployment"]

_SHAPES = {"model": "box", "base": "box3d", "dataset": "cylinder", "document": "note", "deployment": "component"}


@dataclass(frozen=True, slots=True)
class Node:
    """A thing that was made or made from: ``id`` is unique, ``label`` is what people call it."""

    id: str
    kind: Kind
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """``source`` came of ``target``; ``relation`` says how, read from source to target."""

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
class _Whole:
    """The lineage of everything in a state."""

    nodes: dict[str, Node] = field(default_factory=dict)
    made_from: dict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))
    made_into: dict[str, list[Edge]] = field(default_factory=lambda: defaultdict(list))

    def add(self, node: Node) -> str:
        self.nodes.setdefault(node.id, node)
        return node.id

    def link(self, source: str, target: str, relation: str) -> None:
        edge = Edge(source, target, relation)
        self.made_from[source].append(edge)
        self.made_into[target].append(edge)

    def around(self, root: str, direction: Direction) -> Graph:
        """What ``root`` came of (down), what came of it (up), or both: never what else came of its sources."""
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
    """The direction of that name.

    Raises:
        InputError: there is none.
    """
    known: dict[str, Direction] = {"up": "up", "down": "down", "both": "both"}
    if text not in known:
        raise InputError(f"{text!r} is no direction.", hint="Use up, down or both.")
    return known[text]


def trace(state: RegistryState, reference: str, direction: Direction = "both") -> Graph:
    """The lineage of a version.

    Raises:
        NotFoundError: there is no such version.
    """
    record = state.resolve(ModelRef.parse(reference))
    return _whole(state).around(f"model:{record.ref}", direction)


def trace_dataset(state: RegistryState, name: str, direction: Direction = "both") -> Graph:
    """The lineage of the newest dataset of a name.

    Raises:
        NotFoundError: there is none.
    """
    return _whole(state).around(f"dataset:{state.dataset_named(name).digest}", direction)


def trace_document(state: RegistryState, document: str) -> Graph:
    """What came of a document: the datasets with examples from it, the versions trained on those, where they run.

    Args:
        state: where to look.
        document: its path as the dataset recorded it (or the end of that path), or its digest.

    Raises:
        NotFoundError: no dataset was made from it.
    """
    whole = _whole(state)
    documents = [node for node in whole.nodes.values() if node.kind == "document"]
    found = [
        node
        for node in documents
        if document in {node.id.removeprefix("document:"), node.label} or node.label.endswith(f"/{document}")
    ]
    if not found:
        raise NotFoundError(
            f"No dataset was made from {document!r}.", hint=did_you_mean(document, (node.label for node in documents))
        )
    if len(found) == 1:
        return whole.around(found[0].id, "up")
    root = whole.add(Node(f"document:{document}", "document", document, f"{len(found)} versions of it"))
    graphs = [whole.around(node.id, "up") for node in found]
    nodes = dict.fromkeys([whole.nodes[root], *(node for graph in graphs for node in graph.nodes)])
    edges = dict.fromkeys(edge for graph in graphs for edge in graph.edges)
    same = (Edge(node.id, root, "is a version of") for node in found)
    return Graph(root, tuple(nodes), (*same, *edges))


def _whole(state: RegistryState) -> _Whole:
    whole = _Whole()
    for datasets in state.datasets.values():
        for dataset in datasets:
            _add_dataset(whole, dataset)
    records = sorted(state.versions(), key=lambda record: (record.registered.model, record.version))
    by_manifest = {record.registered.manifest: record for record in reversed(records)}
    for record in records:
        whole.add(_version_node(record))
    for record in records:
        _link_version(whole, record, by_manifest)
    for deployment in state.deployments.values():
        served = whole.add(
            Node(f"deployment:{deployment.application}", "deployment", deployment.application, deployment.url)
        )
        whole.link(served, _content_node(whole, deployment.base_digest, deployment.base_model, by_manifest), "serves")
        for reference in deployment.adapters:
            whole.link(served, f"model:{reference}", "serves")
    return whole


def _add_dataset(whole: _Whole, dataset: DatasetRegistered) -> None:
    detail = f"{dataset.num_train} + {dataset.num_validation} examples"
    made = whole.add(Node(f"dataset:{dataset.digest}", "dataset", dataset.name, detail))
    for document in dataset.documents:
        source = whole.add(Node(f"document:{document.digest}", "document", document.path))
        whole.link(made, source, f"has {document.num_examples} examples from")


def _version_node(record: VersionRecord) -> Node:
    said = (record.registered.kind, record.registered.method, "" if record.status == "active" else record.status)
    return Node(f"model:{record.ref}", "model", record.ref, ", ".join(text for text in said if text))


def _link_version(whole: _Whole, record: VersionRecord, by_manifest: dict[str, VersionRecord]) -> None:
    facts, made = record.registered, f"model:{record.ref}"
    if facts.base_digest:
        whole.link(made, _content_node(whole, facts.base_digest, facts.base_model, by_manifest), "is based on")
    for digest in facts.derived_from:
        whole.link(made, _content_node(whole, digest, digest[7:19], by_manifest), "is derived from")
    if facts.dataset_digest:
        source = Node(f"dataset:{facts.dataset_digest}", "dataset", facts.dataset or facts.dataset_digest[7:19])
        whole.link(made, whole.add(source), "was trained on")
    elif facts.dataset:
        whole.link(made, whole.add(Node(f"dataset:{facts.dataset}", "dataset", facts.dataset)), "was trained on")
    if facts.config_digest:
        config = Node(f"config:{facts.config_digest}", "config", facts.config_digest[7:19])
        whole.link(made, whole.add(config), "was configured by")
    if facts.run:
        whole.link(made, whole.add(Node(f"run:{facts.run}", "run", facts.run)), "was made by")


def _content_node(whole: _Whole, digest: str, name: str, by_manifest: dict[str, VersionRecord]) -> str:
    """The version with that content, or a node for what is known by its digest only."""
    known = by_manifest.get(digest)
    if known is not None:
        return f"model:{known.ref}"
    return whole.add(Node(f"base:{digest}", "base", name or digest[7:19], digest[7:19]))


def to_text(graph: Graph) -> str:
    """The graph as a tree for a terminal: what the root came of, then (``◄``) what came of it."""
    return "\n".join(_Tree(graph).lines())


class _Tree:
    """Draws a graph as a tree; what was drawn once is not unfolded again."""

    def __init__(self, graph: Graph) -> None:
        self._root = graph.root
        self._nodes = {node.id: node for node in graph.nodes}
        self._down: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._up: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for edge in graph.edges:
            self._down[edge.source].append((f"{edge.relation} ", edge.target))
            self._up[edge.target].append(("◄ ", edge.source))
        self._drawn = {graph.root}

    def lines(self) -> list[str]:
        """The whole tree."""
        branches = [
            *((mark, node, self._down) for mark, node in self._down[self._root]),
            *((mark, node, self._up) for mark, node in self._up[self._root]),
        ]
        drawn = [_line(self._nodes[self._root])]
        for number, (mark, node, links) in enumerate(branches):
            first, *rest = self._branch(node, links)
            drawn += _indented([f"{mark}{first}", *rest], is_last=number == len(branches) - 1)
        return drawn

    def _branch(self, node: str, links: dict[str, list[tuple[str, str]]]) -> list[str]:
        if node in self._drawn:
            return [f"{_line(self._nodes[node])}{' (see above)' if links[node] else ''}"]
        self._drawn.add(node)
        lines, children = [_line(self._nodes[node])], links[node]
        for number, (mark, child) in enumerate(children):
            first, *rest = self._branch(child, links)
            lines += _indented([f"{mark}{first}", *rest], is_last=number == len(children) - 1)
        return lines


def _indented(lines: list[str], *, is_last: bool) -> list[str]:
    first, *rest = lines
    return [f"{'└─' if is_last else '├─'} {first}", *(f"{'  ' if is_last else '│ '} {line}" for line in rest)]


def _line(node: Node) -> str:
    return f"{node.label} ({node.detail or node.kind})"


def to_dot(graph: Graph) -> str:
    """The graph for Graphviz (https://graphviz.org/doc/info/lang.html)."""
    lines = ["digraph lineage {", "  rankdir=BT;"]
    for node in graph.nodes:
        label = "\n".join(filter(None, (node.label, node.detail)))
        bold = ", penwidth=2" if node.id == graph.root else ""
        lines.append(f"  {_quoted(node.id)} [label={_quoted(label)}, shape={_SHAPES.get(node.kind, 'ellipse')}{bold}];")
    lines += [f"  {_quoted(e.source)} -> {_quoted(e.target)} [label={_quoted(e.relation)}];" for e in graph.edges]
    return "\n".join([*lines, "}"])


def to_json(graph: Graph) -> dict[str, Any]:
    """The graph for programs."""
    return asdict(graph)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
