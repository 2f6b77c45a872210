"""Lineage: down to the documents, up to what was made of them."""

import json

import pytest
from model_files import note_digest, store_note

from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.registry import DatasetRegistered, DeploymentRecorded, SourceDocument
from llamafarm_ray.registry.commands import RecordDeployment, Register, RegisterDataset
from llamafarm_ray.registry.lineage import to_dot, to_json, to_text, trace, trace_dataset, trace_document
from llamafarm_ray.types import Digest, ModelKind

NOTES = ("base", "adapter", "merged", "other")
BASE, ADAPTER, MERGED, OTHER = map(note_digest, NOTES)
FACTS = Digest.of(b"facts")


def document(path, text=None):
    return SourceDocument(path=path, digest=Digest.of((text or path).encode()), num_examples=3)


@pytest.fixture
def state(registry):
    """Two documents make a dataset, that and a base an adapter, those a merged model; one adapter learnt elsewhere."""

    def dataset(name, digest, *documents):
        made = DatasetRegistered(name=name, digest=digest, num_train=5, num_validation=1, documents=documents)
        registry.submit(RegisterDataset(made))

    def version(name, kind, manifest, **details):
        registry.submit(Register(name, kind, manifest, 1, details=details))

    for text in NOTES:
        store_note(registry.content, text)
    dataset("facts", FACTS, document("handbook/tariff.md"), document("handbook/ovens.pdf"))
    dataset("other", OTHER, document("old/tariff.md"))
    version("tiny", ModelKind.BASE, BASE)
    trained = {"base_model": "tiny", "base_digest": BASE, "method": "lora"}
    version("bot", ModelKind.ADAPTER, ADAPTER, **trained, dataset="facts", dataset_digest=FACTS, run="run-7")
    version("bot", ModelKind.ADAPTER, OTHER, **trained, dataset="other", dataset_digest=OTHER)
    version("whole", ModelKind.MERGED, MERGED, base_model="tiny", base_digest=BASE, derived_from=(ADAPTER,))
    deployed = DeploymentRecorded(
        application="app", base_model="tiny", base_digest=BASE, url="http://x", ray_address="", adapters=("bot:1.0.0",)
    )
    registry.submit(RecordDeployment(deployed))
    return registry.refresh()


def labels(graph):
    return {node.label for node in graph.nodes}


def test_down_ends_at_the_documents_and_leaves_out_what_else_came_of_them(state):
    graph = trace(state, "whole", "down")
    run = {"run-7"}
    assert (
        labels(graph)
        == {"whole:1.0.0", "bot:1.0.0", "tiny:1.0.0", "facts", "handbook/tariff.md", "handbook/ovens.pdf"} | run
    )


def test_up_ends_at_what_serves_it(state):
    assert labels(trace(state, "bot:1.0.0", "up")) == {"bot:1.0.0", "whole:1.0.0", "app"}
    assert labels(trace(state, "tiny", "up")) == {"tiny:1.0.0", "bot:1.0.0", "bot:1.1.0", "whole:1.0.0", "app"}


def test_an_edge_points_from_what_was_made_to_what_it_was_made_from(state):
    edges = {(edge.source, edge.relation, edge.target) for edge in trace(state, "bot:1.0.0").edges}
    assert ("model:bot:1.0.0", "is based on", "model:tiny:1.0.0") in edges
    assert ("model:bot:1.0.0", "was trained on", f"dataset:facts@{FACTS}") in edges
    assert ("model:whole:1.0.0", "is derived from", "model:bot:1.0.0") in edges
    ovens = document("handbook/ovens.pdf")
    assert (f"dataset:facts@{FACTS}", "has 3 examples from", f"document:{ovens.digest}:{ovens.path}") in edges


@pytest.mark.parametrize("asked", ["handbook/ovens.pdf", "ovens.pdf", Digest.of(b"handbook/ovens.pdf")])
def test_a_document_leads_to_the_versions_trained_on_it(state, asked):
    found = labels(trace_document(state, asked))
    assert {"facts", "bot:1.0.0", "whole:1.0.0", "app"} <= found
    assert "bot:1.1.0" not in found


def test_a_name_that_several_documents_have_leads_to_what_came_of_any(state):
    assert {"bot:1.0.0", "bot:1.1.0"} <= labels(trace_document(state, "tariff.md"))


def test_an_unknown_document_is_an_error_with_near_names(state):
    with pytest.raises(NotFoundError, match=r"handbook/ovens\.pdf"):
        trace_document(state, "handbook/oven.pdf")


def test_a_dataset_is_traced_both_ways(state):
    assert {"handbook/ovens.pdf", "bot:1.0.0"} <= labels(trace_dataset(state, "facts"))


def test_what_was_retired_says_so(registry, state):
    del state
    registry.retire("bot:1.1.0")
    assert "bot:1.1.0 (adapter, lora, retired)" in to_text(trace(registry.state, "bot:1.1.0"))


def test_the_tree_says_everything_once(state):
    text = to_text(trace(state, "bot:1.0.0"))
    assert text.splitlines()[0] == "bot:1.0.0 (adapter, lora)"
    assert "├─ is based on tiny:1.0.0 (base)" in text
    assert "├─ was trained on facts (5 + 1 examples)" in text
    assert "│  ├─ has 3 examples from handbook/tariff.md (document)" in text
    assert "◄ whole:1.0.0 (merged)" in text
    assert text.count("handbook/tariff.md") == 1


def test_dot_and_json_hold_the_same(state):
    graph = trace(state, "bot:1.0.0")
    dot, data = to_dot(graph), to_json(graph)
    assert all(f'"{node.id}"' in dot for node in graph.nodes)
    assert dot.count(" -> ") == len(graph.edges) == len(data["edges"])
    assert json.loads(json.dumps(data))["root"] == "model:bot:1.0.0"


def test_a_name_with_quotes_cannot_break_out_of_dot(registry):
    evil = 'x"]; evil [label="'
    registry.submit(
        RegisterDataset(
            DatasetRegistered(name="d", digest=FACTS, num_train=1, num_validation=0, documents=(document(evil),))
        )
    )
    assert r'label="x\"]; evil [label=\""' in to_dot(trace_dataset(registry.refresh(), "d"))
