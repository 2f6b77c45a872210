"""Lineage goes by names: equal bytes under several names and paths keep them all, and share their lineage."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import store_note

from llamafarm_ray.registry import Change, DatasetRegistered, RegistryState, SourceDocument
from llamafarm_ray.registry.commands import Context, Register, RegisterDataset, Retire
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.snapshots import dump_state, load_state
from llamafarm_ray.registry.lineage import to_text, trace, trace_dataset, trace_document
from llamafarm_ray.registry.lineage.graph import SAME
from llamafarm_ray.registry.service import RegistryService
from llamafarm_ray.types import Digest, ModelKind, ModelRef
from llamafarm_ray.workflows.versions.trace import trace as trace_as

NOW = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)


def digest(*parts):
    return Digest.of("|".join(map(str, parts)).encode())


class History:
    """A registry's state without a disk, and what its models really learnt."""

    def __init__(self):
        self.state = RegistryState()
        self.datasets = []
        self.versions = []
        self.learnt = {}
        self.documents = set()

    def commit(self, command):
        events = command.decide(self.state, Context("ann", NOW))
        for event in events:
            self.state.check(event)
        number = self.state.sequence + 1
        change = Change(time=NOW, principal="ann", idempotency_key=f"{number}", events=tuple(events))
        self.state = self.state.after_change(change, number)
        return events[0]

    def build(self, name, documents):
        """Make a dataset. Its examples depend on what the documents say, not on their paths."""
        made = DatasetRegistered(
            name=name,
            digest=digest(*sorted({text for _, text in documents})),
            num_train=5,
            num_validation=1,
            documents=tuple(
                SourceDocument(path=path, digest=digest(text), num_examples=2) for path, text in sorted(documents)
            ),
        )
        self.commit(RegisterDataset(made))
        self.documents |= documents
        self.datasets.append((made, {text for _, text in documents}))
        return made

    def register(self, name, manifest, learnt, **details):
        event = self.commit(Register(name, ModelKind.ADAPTER, manifest, 1, details=details))
        self.learnt.setdefault(manifest, learnt)
        self.versions.append((f"{event.model}:{event.version}", manifest))

    def train(self, name, dataset, seed, *, by_digest_alone=False):
        made, learnt = dataset
        facts = {"dataset": "" if by_digest_alone else made.name, "dataset_digest": made.digest}
        self.register(name, digest("trained", made.digest, seed), learnt, **facts)

    def copy(self, name, version):
        self.register(name, version[1], set())

    def combine(self, name, parents):
        manifests = sorted({manifest for _, manifest in parents})
        learnt = set().union(*(self.learnt[manifest] for manifest in manifests))
        self.register(name, digest("combined", *manifests), learnt, derived_from=tuple(manifests))

    def retire(self, version):
        if self.state.version(*version[0].split(":")).retired is None:
            self.commit(Retire(ModelRef.parse(version[0])))

    def documents_of(self, version):
        """Return what a version learnt from, found without the lineage."""
        return {(path, text) for path, text in self.documents if text in self.learnt[version[1]]}

    def traced_down(self, version):
        nodes = trace(self.state, version[0], "down").nodes
        names = {f"document:{digest(text)}:{path}": (path, text) for path, text in self.documents}
        return {names[node.id] for node in nodes if node.kind == "document"}


PATHS = st.sampled_from(["a.md", "b.md", "old/c.md"])
TEXTS = st.sampled_from(["x", "y", "z"])
NAMES = st.sampled_from(["bot", "archive/bot", "zoo"])
DATASETS = st.sampled_from(["facts", "team/facts"])
CHOICE = st.integers(0, 20)


def steps():
    documents = st.frozensets(st.tuples(PATHS, TEXTS), min_size=1, max_size=3)
    return st.lists(
        st.one_of(
            st.tuples(st.just("build"), DATASETS, documents),
            st.tuples(st.just("train"), NAMES, CHOICE, st.integers(0, 1), st.booleans()),
            st.tuples(st.just("copy"), NAMES, CHOICE),
            st.tuples(st.just("combine"), NAMES, CHOICE, CHOICE),
            st.tuples(st.just("retire"), CHOICE),
        ),
        min_size=3,
        max_size=14,
    )


def take(history, step):
    verb, *values = step
    pick = lambda among, number: among[number % len(among)]  # noqa: E731
    match verb:
        case "build":
            history.build(values[0], values[1])
        case "train" if history.datasets:
            name, number, seed, by_digest_alone = values
            history.train(name, pick(history.datasets, number), seed, by_digest_alone=by_digest_alone)
        case "copy" if history.versions:
            history.copy(values[0], pick(history.versions, values[1]))
        case "combine" if history.versions:
            history.combine(values[0], [pick(history.versions, number) for number in values[1:]])
        case "retire" if history.versions:
            history.retire(pick(history.versions, values[0]))


@settings(max_examples=40, deadline=None)
@given(steps())
def test_down_from_a_version_and_up_from_a_document_are_inverse_whatever_happened(taken):
    history = History()
    for step in taken:
        take(history, step)
    learnt = {version[0]: history.traced_down(version) for version in history.versions}
    assert learnt == {version[0]: history.documents_of(version) for version in history.versions}
    for path, text in history.documents:
        for asked, is_meant in (
            (path, lambda document, path=path: document[0] == path),
            (digest(text), lambda document, text=text: document[1] == text),
        ):
            found = {node.label for node in trace_document(history.state, asked).nodes if node.kind == "model"}
            meant = {ref for ref, documents in learnt.items() if any(is_meant(document) for document in documents)}
            assert found == meant


@settings(max_examples=20, deadline=None)
@given(steps())
def test_no_registration_takes_anything_from_the_lineage_of_another_version(taken):
    history = History()
    for step in taken:
        before = {version[0]: _said(history, version) for version in history.versions}
        take(history, step)
        for version in history.versions:
            assert before.get(version[0], set()) <= _said(history, version)


def _said(history, version):
    graph = trace(history.state, version[0], "down")
    edges = {(edge.source, edge.relation, edge.target) for edge in graph.edges if edge.relation != SAME}
    return edges | {(node.id, node.label) for node in graph.nodes}


def test_a_copy_in_another_namespace_hides_no_parent_and_no_document():
    history = History()
    dataset = history.build("crew", {("crew.docx", "rules")}), {"rules"}
    for seed in (0, 1):
        history.train("harbour-guide", dataset, seed)
    history.combine("blend", history.versions)
    for version in history.versions[:2]:
        history.copy("archive/harbour-guide", version)
    everything = {"harbour-guide:1.0.0", "harbour-guide:1.1.0", "blend:1.0.0"}
    copies = {"archive/harbour-guide:1.0.0", "archive/harbour-guide:1.1.0"}
    found = {node.label for node in trace_document(history.state, "crew.docx").nodes if node.kind == "model"}
    assert found == everything | copies
    for ref in found:
        labels = {node.label for node in trace(history.state, ref, "down").nodes}
        assert "crew.docx" in labels
    parents = {
        edge.target for edge in trace(history.state, "blend", "down").edges if edge.source == "model:blend:1.0.0"
    }
    assert parents == {f"model:{ref}" for ref in (everything - {"blend:1.0.0"}) | copies}


def test_equal_documents_are_found_by_each_of_their_paths():
    history = History()
    history.build("facts", {("a.md", "same"), ("b.md", "same")})
    history.train("bot", history.datasets[0], 0)
    for path in ("a.md", "b.md"):
        assert "bot:1.0.0" in {node.label for node in trace_document(history.state, path).nodes}
    assert {"a.md", "b.md"} <= {node.label for node in trace(history.state, "bot", "down").nodes}


def test_a_document_that_was_renamed_is_found_by_both_names():
    history = History()
    history.build("facts", {("a.md", "same")})
    history.train("bot", history.datasets[0], 0)
    history.build("facts", {("renamed.md", "same")})
    for state in (history.state, load_state(dump_state(history.state))):
        for path in ("a.md", "renamed.md"):
            assert "bot:1.0.0" in {node.label for node in trace_document(state, path).nodes}
        assert {"a.md", "renamed.md"} <= {node.label for node in trace_dataset(state, "facts").nodes}


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [("caf\u00e9.md", "cafe\u0301.md"), ("cafe\u0301.md", "caf\u00e9.md"), ("a.md", "./a.md")],
)
def test_a_document_is_found_by_each_spelling_of_its_path(recorded, asked):
    history = History()
    history.build("facts", {(f"old/{recorded}", "same")})
    history.train("bot", history.datasets[0], 0)
    for path in (asked, f"./old/{asked}", f"old//{asked}"):
        assert "bot:1.0.0" in {node.label for node in trace_document(history.state, path).nodes}


def test_a_dataset_of_another_name_with_equal_examples_keeps_its_own_documents_and_name():
    history = History()
    history.build("facts", {("a.md", "same")})
    history.train("bot", history.datasets[0], 0)
    history.build("aaa", {("elsewhere/b.md", "same")})
    (trained_on,) = (edge for edge in trace(history.state, "bot", "down").edges if edge.relation == "was trained on")
    assert trained_on.target == f"dataset:facts@{digest('same')}"
    assert {"facts", "aaa"} <= {node.label for node in trace(history.state, "bot", "down").nodes}


def test_a_base_that_is_not_registered_keeps_the_name_that_each_version_gives_it():
    history = History()
    base = digest("base")
    history.register("bot", digest(1), set(), base_model="tiny", base_digest=base)
    history.register("aaa", digest(2), set(), base_model="huge", base_digest=base)
    assert {node.label for node in trace(history.state, "bot", "down").nodes} == {"bot:1.0.0", "tiny"}
    assert {node.label for node in trace(history.state, "aaa", "down").nodes} == {"aaa:1.0.0", "huge"}
    history.register("zoo/stranger", base, set())
    bases = {edge.target for edge in trace(history.state, "bot", "down").edges if edge.relation == "is based on"}
    assert bases == {f"base:tiny@{base}", "model:zoo/stranger:1.0.0"}
    history.register("tiny", base, set())
    bases = {edge.target for edge in trace(history.state, "bot", "down").edges if edge.relation == "is based on"}
    assert bases == {"model:tiny:1.0.0", "model:zoo/stranger:1.0.0"}
    assert {"bot:1.0.0", "aaa:1.0.0"} <= {node.label for node in trace(history.state, "tiny", "up").nodes}


def test_the_tree_names_a_copy_once():
    history = History()
    history.register("bot", digest("same"), set())
    history.copy("archive/bot", history.versions[0])
    assert to_text(trace(history.state, "bot")).splitlines() == [
        "bot:1.0.0 (adapter)",
        "└─ has the same content as archive/bot:1.0.0 (adapter)",
    ]


@pytest.fixture
def medical_copy(registry):
    """The same bytes twice: as a version of the team `medical`, which knows its documents, and as a plain `bot`."""
    content = store_note(registry.content, "bytes")
    made = DatasetRegistered(
        name="medical/cases",
        digest=digest("cases"),
        num_train=1,
        num_validation=0,
        documents=(SourceDocument(path="smith.docx", digest=digest("smith"), num_examples=1),),
    )
    registry.submit(RegisterDataset(made))
    facts = {"dataset": "medical/cases", "dataset_digest": made.digest}
    registry.submit(Register("medical/bot", ModelKind.ADAPTER, content, 1, details=facts))
    registry.submit(Register("bot", ModelKind.ADAPTER, content, 1))
    return RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))


def test_equal_content_under_a_name_that_one_may_not_read_has_no_name_and_is_not_left_out(medical_copy):
    everywhere = {node.label for node in trace_as(medical_copy, reference="bot", direction="down").nodes}
    assert {"medical/bot:1.0.0", "smith.docx"} <= everywhere
    token = medical_copy.add_principal("vic", {"": Role.VIEWER})
    graph = trace_as(RegistryService(medical_copy.home, token=token), reference="bot", direction="down")
    assert {node.label for node in graph.nodes} == {"bot:1.0.0", "one that you may not read"}
