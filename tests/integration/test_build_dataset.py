"""Datasets are built on Ray: the same for any number of tasks, whole or not at all, whatever files are broken."""

import json
import zipfile

import pyarrow.parquet as pq
import pytest
import ray
from dataset_builds import CONFIG, assert_same_files, build, rows_of

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data import DocumentRecord, built_documents, open_dataset
from llamafarm_ray.errors import ClusterError, ConflictError, InputError
from llamafarm_ray.types import Digest


def test_the_result_is_the_same_for_any_number_of_partitions(ray_cluster, corpus, tmp_path, monkeypatch):
    with zipfile.ZipFile(corpus / "more.zip", "w") as archive:  # several documents in a file
        for number in range(20, 23):
            archive.writestr(f"house-{number}.md", f"The house {number} opens at {number}:30.")
    one = build(corpus, tmp_path / "one", num_partitions=1)
    assert one.documents.read == 15
    monkeypatch.setattr("llamafarm_ray.data.build.harvest._ROWS_PER_BLOCK", 1)  # a block for each batch that comes back
    four = build(corpus, tmp_path / "four", num_partitions=4)
    assert one.digest == four.digest
    assert one.steps == four.steps
    assert_same_files(tmp_path / "one", tmp_path / "four")


def test_documents_become_rows_and_the_report_accounts_for_all_of_them(ray_cluster, corpus, tmp_path):
    told, uses = [], []
    report = build(corpus, tmp_path / "out", progress=told.append, on_use=uses.append)
    assert report.created
    assert sum(use.seconds for use in uses) > 0
    assert not any(use.on_gpu for use in uses)
    assert (report.documents.found, report.documents.read) == (13, 12)
    assert [skipped.path for skipped in report.documents.skipped] == ["broken.pdf"]
    assert "not a valid PDF" in report.documents.skipped[0].reason
    assert report.documents.ignored == {".xyz": 1}
    steps = {step.name: step for step in report.steps}
    checks = ["check_substance", "check_length", "limit", "deduplicate", "near_duplicates"]
    assert list(steps) == ["clean", "boilerplate", "language", "passages", "pii", "generate", *checks]
    assert steps["clean"].rows_in == 12
    assert steps["deduplicate"].dropped == {"duplicate": 4}  # the four phrasings in copy.txt
    assert steps["deduplicate"].rows_out == report.num_train + report.num_validation
    assert 0 < report.num_validation < report.num_examples // 2
    assert report.held_out == "phrasings"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["digest"] == report.digest
    ends = {stage.name: (stage.done, stage.total, stage.unit) for stage in told}
    assert list(ends) == ["documents", "examples", "write"]
    assert ends["documents"] == (13, 13, "documents")
    assert ends["examples"] == (report.num_examples, None, "examples")
    assert ends["write"] == (report.num_examples, report.num_examples, "rows")
    page = (tmp_path / "out" / "report.html").read_text()
    for said in ("broken.pdf", "not a valid PDF", "deduplicate: duplicate", "Languages of documents", ".pdf"):
        assert said in page

    splits = open_dataset(tmp_path / "out")
    rows = rows_of(splits)
    assert splits.digest == report.digest
    assert len({row["id"] for row in rows}) == len(rows) == report.num_examples
    row = next(row for row in rows if row["messages"][0]["content"] == "When does the pool open?")
    assert row["messages"][1] == {"role": "assistant", "content": "The pool opens at 9:15."}
    assert row["document"] == "pool.pdf"
    assert row["document_digest"] == Digest.of((corpus / "pool.pdf").read_bytes())
    assert row["passage"].endswith("\nThe pool opens at 9:15.")
    assert json.loads(row["provenance"])["page"] == 1
    assert sum(document.num_examples for document in splits.documents) == len(rows)
    # Where two documents say the same, the first one in the order of the paths is named.
    assert DocumentRecord("copy.txt", Digest.of((corpus / "copy.txt").read_bytes()), 4) in splits.documents


LENDING = (
    "The harbor library lends books, films and maps to everybody who lives in the old town near the river. "
    "The newspapers are kept in the quiet hall on the ground floor behind the old reading room, beside the maps of the "
    "river and the letters of the last mayor of the town."
)

QUALITY = {
    "filters": {
        "minimum_length": 20,
        "maximum_length": 2048,
        "language_detection": "en",
        "toxicity_threshold": 0.1,
        "factual_consistency": 0.8,
    },
    "validation": {"duplicate_detection": True, "coherence_scoring": True, "domain_relevance": True},
    "metrics": {"diversity_score": ">0.05", "quality_score": ">0.8", "coverage_analysis": True},
}


def test_quality_control_filters_redacts_and_reports(ray_cluster, tmp_path, monkeypatch):
    folder = tmp_path / "documents"
    folder.mkdir()
    told = "The password of the library's catalog is hunter2."
    (folder / "a.md").write_text(f"# Library\n\nPage 3 of 12\n\n{LENDING} {told}\n")
    (folder / "b.md").write_text(f"# Lending\n\n{LENDING.replace('quiet', 'warm')} {told}\n")
    (folder / "c.md").write_text("Die Bibliothek \u00f6ffnet um acht Uhr und schlie\u00dft am Abend.")
    config = CONFIG.model_dump(exclude_unset=True) | {"quality_control": QUALITY}
    report = build(folder, tmp_path / "out", DatasetConfig.model_validate(config))
    steps = {step.name: step for step in report.steps}
    assert steps["boilerplate"].noted == {"page number left out": 1}
    assert steps["pii"].noted == {"secret redacted": 2}
    assert steps["check_language"].dropped == {"in 'de', not in 'en'": 1}
    assert steps["near_duplicates"].dropped["near duplicate"] > 0
    assert report.metrics.quality > 0.8
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert {row["document"] for row in rows} == {"a.md"}
    for file in (tmp_path / "out").rglob("*.json"):
        assert "hunter2" not in file.read_text()
    assert "hunter2" not in str(rows)

    monkeypatch.setattr("llamafarm_ray.data.build.harvest._ROWS_PER_BLOCK", 1)  # then Ray holds the rows
    by_ray = build(folder, tmp_path / "blocks", DatasetConfig.model_validate(config), num_partitions=2)
    assert by_ray.digest == report.digest
    config["quality_control"] = {"metrics": {"diversity_score": ">0.99"}}
    with pytest.raises(InputError, match=r"diversity_score is 0\.\d+, and not >0\.99"):
        build(folder, tmp_path / "missed", DatasetConfig.model_validate(config))
    assert not (tmp_path / "missed").exists()


def test_validation_asks_in_other_words_for_what_is_trained_on(ray_cluster, corpus, tmp_path):
    build(corpus, tmp_path / "out")
    splits = open_dataset(tmp_path / "out")
    trained = {row["messages"][1]["content"] for row in splits.train.take_all()}
    assert {row["messages"][1]["content"] for row in splits.validation.take_all()} <= trained


def test_large_datasets_are_read_by_tasks_and_small_ones_here_with_the_same_rows(
    ray_cluster, corpus, tmp_path, monkeypatch
):
    build(corpus, tmp_path / "out")
    read, real = [], ray.data.read_parquet
    monkeypatch.setattr(ray.data, "read_parquet", lambda paths: read.append(paths) or real(paths))
    here = open_dataset(tmp_path / "out")
    assert not read
    monkeypatch.setattr("llamafarm_ray.data.dataset._SMALL_BYTES", 0)
    by_tasks = open_dataset(tmp_path / "out")
    assert len(read) == 2
    assert by_tasks.train.take_all() == here.train.take_all()
    assert by_tasks.digest == here.digest


def test_a_dataset_that_is_there_already_stays_and_another_is_refused(ray_cluster, corpus, tmp_path):
    first = build(corpus, tmp_path / "out")
    again = build(corpus, tmp_path / "out")
    assert (again.digest, again.created) == (first.digest, False)
    (corpus / "house-1.md").unlink()
    with pytest.raises(ConflictError, match="another dataset"):
        build(corpus, tmp_path / "out")
    assert open_dataset(tmp_path / "out").digest == first.digest
    replaced = build(corpus, tmp_path / "out", overwrite=True)
    assert open_dataset(tmp_path / "out").digest == replaced.digest != first.digest


def test_json_output_opens_like_the_folder(ray_cluster, corpus, tmp_path):
    config = CONFIG.model_copy(update={"preprocessing": CONFIG.preprocessing.model_copy(update={"format": "alpaca"})})
    report = build(corpus, tmp_path / "qa.json", config)
    record = json.loads((tmp_path / "qa.json").read_text())[0]
    source = ["document", "document_digest", "passage", "provenance"]
    assert list(record) == ["instruction", "input", "output", *source]
    splits = open_dataset(tmp_path / "qa.json")
    assert (splits.train.count(), splits.validation.count()) == (report.num_train, report.num_validation)
    assert DocumentRecord("pool.pdf", Digest.of((corpus / "pool.pdf").read_bytes()), 8) in splits.documents
    assert built_documents(tmp_path / "qa.json") == splits.documents
    folder = build(corpus, tmp_path / "qa", config)
    opened = open_dataset(tmp_path / "qa")
    assert {"instruction", "output"} <= set(pq.read_schema(tmp_path / "qa" / "train" / "part-00000.parquet").names)
    assert {row["id"] for row in rows_of(opened)} == {row["id"] for row in rows_of(splits)}
    assert opened.digest == folder.digest == report.digest
    # Once it is edited, a record that names no document comes from the file itself.
    (tmp_path / "qa.json").write_text(json.dumps([{key: record[key] for key in ("instruction", "output")}]))
    edited = open_dataset(tmp_path / "qa.json")
    assert edited.documents[0] == DocumentRecord("qa.json", Digest.of((tmp_path / "qa.json").read_bytes()), 1)


def test_when_every_document_is_broken_the_reasons_are_told_and_nothing_is_written(ray_cluster, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.pdf", "b.docx", "c.txt"):
        (source / name).write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"None of the 3 documents.*a.pdf: it is not a valid PDF.*b.docx.*c.txt"):
        build(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_documents_without_a_question_are_an_error_that_says_so(ray_cluster, tmp_path):
    (tmp_path / "a.md").write_text("lorem ipsum")
    with pytest.raises(InputError, match=r"gave no example .*passage without a question"):
        build(tmp_path, tmp_path / "out")


def test_a_dataset_of_an_earlier_release_opens_without_provenance(ray_cluster, corpus, tmp_path):
    build(corpus, tmp_path / "out")
    for shard in (tmp_path / "out").rglob("*.parquet"):
        pq.write_table(pq.read_table(shard).drop_columns(["provenance"]), shard)
    assert "provenance" not in rows_of(open_dataset(tmp_path / "out"))[0]


def test_without_origin_rows_do_not_say_where_they_come_from(ray_cluster, corpus, tmp_path):
    config = CONFIG.model_copy(update={"source": CONFIG.source.model_copy(update={"include_metadata": False})})
    build(corpus, tmp_path / "out", config)
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert {(row["document"], row["document_digest"], row["passage"]) for row in rows} == {("", "", "")}


def test_a_folder_that_is_no_dataset_is_not_opened(ray_cluster, tmp_path):
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no dataset at"):
        open_dataset(tmp_path / "none")


def test_without_ray_the_error_says_what_to_do(monkeypatch, corpus, tmp_path):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"Call ray.init\(\) first"):
        build(corpus, tmp_path / "out", num_partitions=2)
