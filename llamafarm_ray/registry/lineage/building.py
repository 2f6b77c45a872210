"""Build the lineage of a registry's state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from llamafarm_ray.registry.events import DatasetRegistered, DeploymentRecorded
from llamafarm_ray.registry.lineage.graph import SAME, Lineage, Node
from llamafarm_ray.registry.state import RegistryState, VersionRecord
from llamafarm_ray.types import ModelRef

__all__ = ["dataset_id", "lineage_of"]

_HIDDEN = "one that you may not read"


def lineage_of(state: RegistryState, may_read: Callable[[str], bool] | None = None) -> Lineage:
    """Return the lineage of everything in a state.

    Args:
        may_read: tells of a namespace whether its names may be shown. Equal bytes under a name that may not be shown
            become a node without a name. By default every name is shown.
    """
    return _Builder(state, may_read).build()


def dataset_id(name: str, digest: str) -> str:
    """Return the node id of a dataset."""
    return f"dataset:{name}@{digest}"


class _Builder:
    def __init__(self, state: RegistryState, may_read: Callable[[str], bool] | None) -> None:
        self._state = state
        self._may_read = may_read or (lambda _: True)
        self._lineage = Lineage()
        self._readable: set[str] = set()
        """Ids of what readable namespaces hold."""
        self._by_content: dict[str, dict[str, None]] = defaultdict(dict)
        """Ids of versions, datasets and documents by kind and digest, in the order in which they were added."""
        self._versions: dict[str, list[str]] = defaultdict(list)
        """Ids of versions by their manifest's digest."""
        self._datasets: dict[str, list[str]] = defaultdict(list)
        """Ids of registered datasets by digest."""

    def build(self) -> Lineage:
        records = sorted(self._state.versions(), key=lambda record: (record.time, record.ref))
        for record in records:
            self._add_version(record)
        registered = [dataset for name in sorted(self._state.datasets) for dataset in self._state.datasets[name]]
        for dataset in reversed(registered):  # the newest of a name is last, and its counts are the ones to show
            self._add_dataset(dataset)
        for record in records:
            self._link_version(record)
        for dataset in registered:
            self._link_dataset(dataset)
        for deployment in self._state.deployments.values():
            self._add_deployment(deployment)
        shown = self._lineage.sources_of(self._readable)  # whoever may read a version may read what it was made from
        for content, ids in self._by_content.items():
            self._link_same(content, ids, shown)
        return self._lineage

    def _add_version(self, record: VersionRecord) -> None:
        facts = record.registered
        said = (facts.kind, facts.method, "" if record.status == "active" else record.status)
        node = Node(f"model:{record.ref}", "model", record.ref, ", ".join(text for text in said if text))
        self._add(node, content=f"model {facts.manifest}", is_readable=self._may_read(_namespace(facts.model)))
        self._versions[facts.manifest].append(node.id)

    def _add_dataset(self, dataset: DatasetRegistered) -> None:
        detail = f"{dataset.num_train} + {dataset.num_validation} examples"
        node = Node(dataset_id(dataset.name, dataset.digest), "dataset", dataset.name, detail)
        self._add(node, content=f"dataset {dataset.digest}", is_readable=self._may_read(_namespace(dataset.name)))
        if node.id not in self._datasets[dataset.digest]:
            self._datasets[dataset.digest].append(node.id)

    def _link_version(self, record: VersionRecord) -> None:
        facts, made = record.registered, f"model:{record.ref}"
        if facts.base_digest:
            self._link_all(made, self._versions_of(facts.base_digest, facts.base_model), "is based on")
        for digest in facts.derived_from:
            self._link_all(made, self._versions_of(digest, ""), "is derived from")
        self._link_all(made, self._datasets_of(facts.dataset, facts.dataset_digest), "was trained on")
        for name, digest in sorted(record.evaluation_sets):
            self._link_all(made, self._datasets_of(name, digest), "was evaluated on")
        if facts.config_digest:
            config = Node(f"config:{facts.config_digest}", "config", facts.config_digest[7:19])
            self._link_all(made, [self._lineage.add(config)], "was configured by")
        if facts.run:
            self._link_all(made, [self._lineage.add(Node(f"run:{facts.run}", "run", facts.run))], "was made by")

    def _link_dataset(self, dataset: DatasetRegistered) -> None:
        made = dataset_id(dataset.name, dataset.digest)
        for document in dataset.documents:
            node = Node(f"document:{document.digest}:{document.path}", "document", document.path)
            source = self._add(node, content=f"document {document.digest}")
            self._link_all(made, [source], f"has {document.num_examples} examples from")

    def _add_deployment(self, deployment: DeploymentRecorded) -> None:
        node = Node(f"deployment:{deployment.application}", "deployment", deployment.application, deployment.url)
        served = self._lineage.add(node)
        self._link_all(served, self._versions_of(deployment.base_digest, deployment.base_model), "serves")
        for reference in deployment.adapters:
            adapter = Node(f"model:{reference}", "model", reference, "not registered")
            self._link_all(served, [self._lineage.add(adapter)], "serves")

    def _versions_of(self, digest: str, name: str) -> list[str]:
        """Return every version with these files, and a node for the name given where none of them has it."""
        known = self._versions.get(digest, [])
        model = name.partition(":")[0].partition("@")[0]
        if known and (not name or any(node_id.startswith(f"model:{model}:") for node_id in known)):
            return known
        node_id = f"base:{name}@{digest}" if name else f"base:{digest}"
        named = self._lineage.add(Node(node_id, "base", name or digest[7:19], digest[7:19]))
        if known:
            self._by_content[f"model {digest}"][named] = None
        return [named, *known]

    def _datasets_of(self, name: str, digest: str | None) -> list[str]:
        """Return the dataset that a version names; where it gives a digest alone, every dataset with that digest."""
        if digest is None:
            return [self._lineage.add(Node(f"dataset:{name}", "dataset", name))] if name else []
        if not name and digest in self._datasets:
            return self._datasets[digest]
        node = Node(dataset_id(name, digest), "dataset", name or digest[7:19])
        return [self._add(node, content=f"dataset {digest}")]

    def _add(self, node: Node, *, content: str, is_readable: bool = False) -> str:
        self._by_content[content][node.id] = None
        if is_readable:
            self._readable.add(node.id)
        return self._lineage.add(node)

    def _link_all(self, made: str, sources: Iterable[str], relation: str) -> None:
        for source in sources:
            self._lineage.link(made, source, relation)

    def _link_same(self, content: str, ids: Iterable[str], shown: AbstractSet[str]) -> None:
        """Link equal content; names that may not be shown are one node without a name, and without sources."""
        named = [node_id for node_id in ids if node_id in shown]
        hidden = [node_id for node_id in ids if node_id not in shown]
        self._lineage.link_same(named)
        if named and hidden:
            kind = self._lineage.nodes[named[0]].kind
            self._lineage.link(named[0], self._lineage.add(Node(f"hidden:{content}", kind, _HIDDEN)), SAME)


def _namespace(name: str) -> str:
    """Return the namespace of a model or dataset."""
    return ModelRef(name).namespace
