"""Quality control where documents become rows: in the order of the pipeline, without Ray."""

import json
import os

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import files_table, process_documents, step_names
from llamafarm_ray.data.build.examples import Examples
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.quality.decontamination import EvaluationTexts
from llamafarm_ray.data.quality.metrics import measure
from llamafarm_ray.data.sources import SourceFile

LENDING = (
    "The harbor library lends books, films and maps to everybody who lives in the old town near the river. "
    "Visitors must leave the newspapers in the quiet hall on the ground floor when they go home."
)
SEED = {
    # As the documents that this project implements print it.
    "filters": {
        "minimum_length": 20,
        "maximum_length": 2048,
        "language_detection": "en",
        "toxicity_threshold": 0.1,
        "factual_consistency": 0.8,
    },
    "validation": {"duplicate_detection": True, "coherence_scoring": True, "domain_relevance": True},
    "metrics": {"diversity_score": ">0.7", "quality_score": ">0.8", "coverage_analysis": True},
}


def build(folder, quality, documents):
    """Return the harvest and the rows of a dataset, as its builder has them before it writes."""
    files = []
    for name, text in documents.items():
        (folder / name).write_text(text)
        files.append(SourceFile(name, os.fsencode(folder / name)))
    qa = {"questions_per_doc": None, "phrasings": 1}
    config = DatasetConfig.model_validate({"quality_control": quality, "preprocessing": {"qa_generation": qa}})
    harvest = Harvest()
    for step in step_names(config, by_rules=True):
        harvest.ledger.counts(step)
    for table in process_documents(files_table(files), config=config, by_rules=True):
        harvest.take(table)
    examples = Examples(harvest, config.quality_control, EvaluationTexts.of(["Who keeps the vault?"]))
    columns = ["id", "messages", "document", "position", "passage", "pii"]
    return harvest, list(examples.rows(columns, harvest.ledger)), config


def test_the_printed_block_filters_redacts_counts_and_measures(tmp_path):
    documents = {
        "a.md": f"# Library\n\nPage 3 of 12\n\n{LENDING} The password of the catalog is hunter2.\n",
        "b.md": f"# Lending\n\n{LENDING.replace('quiet', 'warm')} The password of the catalog is hunter2.\n",
        "c.md": "Die Bibliothek öffnet um acht Uhr und schließt am Abend um zwanzig Uhr.\n",
    }
    harvest, rows, config = build(tmp_path, SEED, documents)
    steps = harvest.ledger.to_dict()
    assert list(steps) == [
        *("clean", "boilerplate", "language", "passages", "pii", "check_language", "generate"),
        *("check_substance", "check_length", "check_support", "check_toxicity", "check_coherence", "limit"),
        *("deduplicate", "near_duplicates", "domain_relevance"),
    ]
    assert steps["boilerplate"]["noted"] == {"page number left out": 1}
    assert steps["pii"]["noted"] == {"secret redacted": 2}
    assert steps["check_language"]["dropped"] == {"in 'de', not in 'en'": 1}
    assert steps["near_duplicates"]["dropped"]["near duplicate"] > 0
    assert steps["near_duplicates"]["samples"]["near duplicate"]
    assert {row["document"] for row in rows} == {"a.md"}
    assert "hunter2" not in json.dumps([steps, rows])
    assert "[SECRET]" in rows[0]["passage"]
    assert measure(rows, config).quality > 0.8


def test_tags_reach_the_rows(tmp_path):
    text = "# Desk\n\nThe desk answers at desk@example.com. The desk opens at 8:30.\n"
    _, rows, _ = build(tmp_path, {"pii": {"action": "tag"}}, {"a.md": text})
    assert [row["pii"] for row in rows] == [["email"]] * len(rows) != []


def test_facts_that_differ_in_a_number_are_no_near_duplicates(tmp_path):
    text = f"# Rooms\n\n{LENDING} A room costs {{}} euros.\n"
    harvest, rows, _ = build(tmp_path, {}, {"a.md": text.format(10), "b.md": text.format(12)})
    assert {row["document"] for row in rows} == {"a.md", "b.md"}
    assert harvest.ledger.to_dict()["near_duplicates"]["dropped"] == {}


def test_a_dataset_without_filters_has_their_steps_left_out(tmp_path):
    off = {
        "filters": {"boilerplate": False},
        "validation": {"near_duplicate_threshold": None},
        "pii": {"action": "keep"},
    }
    harvest, rows, _ = build(tmp_path, off, {"a.md": "# Gate\n\nThe gate opens at 8:30.\n"})
    assert not {"boilerplate", "near_duplicates"} & harvest.ledger.steps.keys()
    assert rows
