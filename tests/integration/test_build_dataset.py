"""Datasets are built on Ray: the same for any number of tasks, whole or not at all, whatever files are broken."""

import json

import pyarrow.parquet as pq
import pytest
from fpdf import FPDF

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data import DocumentRecord, build_dataset, open_dataset
from llamafarm_ray.errors import ClusterError, ConflictError, InputError, UnsupportedError
from llamafarm_ray.types import Digest

EVERY_QUESTION = {"questions_per_doc": None, "phrasings": 4}
CONFIG = DatasetConfig.model_validate(
    {"preprocessing": {"qa_generation": EVERY_QUESTION}, "validation": {"split_ratio": 0.2}}
)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(10):
        text = f"The house {number} opens at {number}:30. A day in house {number} costs {number + 5} euros."
        (folder / f"house-{number}.md").write_text(f"# House {number}\n\n{text}\n")
    (folder / "copy.txt").write_text("The house 3 opens at 3:30.")
    document = FPDF()
    document.add_page()
    document.set_font("helvetica", size=11)
    document.cell(0, 8, "The pool opens at 9:15.")
    document.output(str(folder / "pool.pdf"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 no more")
    (folder / "notes.xyz").write_text("ignored")
    return folder


def build(source, output, config=CONFIG, **options):
    return build_dataset(source, output, config, name="houses", seed=7, **options)


def rows_of(splits):
    return [row for split in (splits.train, splits.validation) if split is not None for row in split.take_all()]


def test_the_result_is_the_same_for_any_number_of_partitions(ray_cluster, corpus, tmp_path, monkeypatch):
    one = build(corpus, tmp_path / "one", num_partitions=1)
    monkeypatch.setattr("llamafarm_ray.data.harvest._ROWS_PER_BLOCK", 1)  # a block for each batch that comes back
    four = build(corpus, tmp_path / "four", num_partitions=4)
    assert one.digest == four.digest
    assert one.steps == four.steps
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        if path.name != "report.json":  # it tells the time
            assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "four" / path).read_bytes()


def test_documents_become_rows_and_the_report_accounts_for_all_of_them(ray_cluster, corpus, tmp_path):
    told = []
    report = build(corpus, tmp_path / "out", progress=lambda stage, fraction: told.append((stage, fraction)))
    assert report.created
    assert (report.documents.found, report.documents.read) == (13, 12)
    assert [skipped.path for skipped in report.documents.skipped] == ["broken.pdf"]
    assert "not a valid PDF" in report.documents.skipped[0].reason
    assert report.documents.ignored == {".xyz": 1}
    steps = {step.name: step for step in report.steps}
    assert list(steps) == ["clean", "passages", "generate", "check_substance", "check_length", "limit", "deduplicate"]
    assert steps["clean"].rows_in == 12
    assert steps["deduplicate"].dropped == {"duplicate": 4}  # the four phrasings in copy.txt
    assert steps["deduplicate"].rows_out == report.num_train + report.num_validation
    assert report.num_validation == round(0.2 * report.num_examples)
    assert report.held_out == "phrasings"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["digest"] == report.digest
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)

    splits = open_dataset(tmp_path / "out")
    rows = rows_of(splits)
    assert splits.digest == report.digest
    assert len({row["id"] for row in rows}) == len(rows) == report.num_examples
    row = next(row for row in rows if row["messages"][0]["content"] == "When does the pool open?")
    assert row["messages"][1] == {"role": "assistant", "content": "The pool opens at 9:15."}
    assert row["document"] == "pool.pdf"
    assert row["document_digest"] == Digest.of((corpus / "pool.pdf").read_bytes())
    assert row["passage"] == "The pool opens at 9:15."
    assert sum(document.num_examples for document in splits.documents) == len(rows)
    # Where two documents say the same, the first one in the order of the paths is named.
    assert DocumentRecord("copy.txt", Digest.of((corpus / "copy.txt").read_bytes()), 8) in splits.documents


def test_validation_asks_in_other_words_for_what_is_trained_on(ray_cluster, corpus, tmp_path):
    build(corpus, tmp_path / "out")
    splits = open_dataset(tmp_path / "out")
    trained = {row["messages"][1]["content"] for row in splits.train.take_all()}
    assert {row["messages"][1]["content"] for row in splits.validation.take_all()} <= trained


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
    assert list(record) == ["instruction", "input", "output"]
    splits = open_dataset(tmp_path / "qa.json")
    assert (splits.train.count(), splits.validation.count()) == (report.num_train, report.num_validation)
    assert DocumentRecord("pool.pdf", Digest.of((corpus / "pool.pdf").read_bytes()), 8) in splits.documents
    folder = build(corpus, tmp_path / "qa", config)
    opened = open_dataset(tmp_path / "qa")
    assert {"instruction", "output"} <= set(pq.read_schema(tmp_path / "qa" / "train" / "part-00000.parquet").names)
    assert {row["id"] for row in rows_of(opened)} == {row["id"] for row in rows_of(splits)}
    assert opened.digest == folder.digest == report.digest
    # Once it is edited, the file itself is where the examples come from.
    (tmp_path / "qa.json").write_text(json.dumps([record]))
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


@pytest.mark.parametrize("stage", ["documents", "examples", "write"])
def test_a_build_that_is_interrupted_leaves_nothing(ray_cluster, corpus, tmp_path, stage):
    def interrupt(at, fraction):
        if at == stage and fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "out", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_without_origin_rows_do_not_say_where_they_come_from(ray_cluster, corpus, tmp_path):
    config = CONFIG.model_copy(update={"source": CONFIG.source.model_copy(update={"include_metadata": False})})
    build(corpus, tmp_path / "out", config)
    rows = rows_of(open_dataset(tmp_path / "out"))
    assert {(row["document"], row["document_digest"], row["passage"]) for row in rows} == {("", "", "")}


def test_other_generators_are_refused_before_any_work(tmp_path):
    config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "gpt-4o"}}})
    with pytest.raises(UnsupportedError, match="gpt-4o"):
        build(tmp_path, tmp_path / "out", config)


def test_a_folder_that_is_no_dataset_is_not_opened(ray_cluster, tmp_path):
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no dataset at"):
        open_dataset(tmp_path / "none")


def test_without_ray_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"Call ray.init\(\) first"):
        build(tmp_path, tmp_path / "out")
