"""Trace a version, a dataset or a document through the lineage."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable

from llamafarm_ray.errors import NotFoundError, did_you_mean
from llamafarm_ray.registry.lineage.building import dataset_id, lineage_of
from llamafarm_ray.registry.lineage.graph import Direction, Edge, Graph, Node
from llamafarm_ray.registry.state import RegistryState
from llamafarm_ray.types import ModelRef

__all__ = ["trace", "trace_dataset", "trace_document"]


def trace(
    state: RegistryState,
    reference: str,
    direction: Direction = "both",
    *,
    may_read: Callable[[str], bool] | None = None,
) -> Graph:
    """Return the lineage of a version.

    Args:
        direction: ``down`` to its sources, ``up`` to its results, or ``both``.
        may_read: see :func:`.lineage_of`.

    Raises:
        NotFoundError: there is no such version.
    """
    record = state.resolve(ModelRef.parse(reference))
    return lineage_of(state, may_read).around(f"model:{record.ref}", direction)


def trace_dataset(state: RegistryState, name: str, direction: Direction = "both") -> Graph:
    """Return the lineage of the newest dataset of a name.

    Raises:
        NotFoundError: there is none.
    """
    return lineage_of(state).around(dataset_id(name, state.dataset_named(name).digest), direction)


def trace_document(state: RegistryState, document: str) -> Graph:
    """Return the datasets with examples from a document, the versions trained on those, and their deployments.

    Args:
        document: its path as the dataset recorded it (or the end of that path), or its digest.

    Raises:
        NotFoundError: no dataset was made from it.
    """
    lineage = lineage_of(state)
    documents = [node for node in lineage.nodes.values() if node.kind == "document"]
    found = [node for node in documents if _is_asked_for(node, document)]
    if not found:
        raise NotFoundError(
            f"No dataset was made from {document!r}.", hint=did_you_mean(document, (node.label for node in documents))
        )
    if len(found) == 1:
        return lineage.around(found[0].id, "up")
    root = lineage.add(Node(f"document:{document}", "document", document, f"{len(found)} documents"))
    graphs = [lineage.around(node.id, "up") for node in found]
    nodes = dict.fromkeys([lineage.nodes[root], *(node for graph in graphs for node in graph.nodes)])
    edges = dict.fromkeys(edge for graph in graphs for edge in graph.edges)
    named = (Edge(node.id, root, "is one of") for node in found)
    return Graph(root, tuple(nodes), (*named, *edges))


def _is_asked_for(node: Node, document: str) -> bool:
    digest = node.id.removeprefix("document:")[: len("sha256:") + 64]
    asked, label = _plain(document), _plain(node.label)
    return document in {digest, node.label} or label == asked or label.endswith(f"/{asked}")


def _plain(path: str) -> str:
    """Return a path without dots, in one spelling: macOS writes an accent as a character of its own."""
    return posixpath.normpath(unicodedata.normalize("NFC", path))
