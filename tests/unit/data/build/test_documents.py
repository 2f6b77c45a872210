"""A file becomes rows: one for each document in it, with what its reader remarked; strict builds stop at a bad one."""

import gzip
import io
import zipfile

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.build.harvest import Harvest
from llamafarm_ray.data.sources import discover
from llamafarm_ray.errors import InputError

CONFIG = DatasetConfig()


@pytest.fixture
def corpus(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mill.md", "The entrance fee of the mill is four euros.")
        archive.writestr("broken.pdf", "no PDF")
        archive.writestr("tool.exe", "MZ")
    (tmp_path / "manual.zip").write_bytes(buffer.getvalue())
    (tmp_path / "café.txt").write_bytes("The entrance fee of the café is two euros.".encode("cp1252"))
    (tmp_path / "deutsch.txt.gz").write_bytes(gzip.compress("Die Bibliothek öffnet um acht Uhr.".encode()))
    return tmp_path


def harvest(source):
    harvest = Harvest()
    for table in process_documents(files_table(discover(source).files), config=CONFIG, by_rules=True):
        harvest.take(table)
    return harvest


def test_each_document_of_an_archive_counts(corpus):
    found = harvest(corpus)
    assert sorted(found.digests) == ["café.txt", "deutsch.txt.gz!/deutsch.txt", "manual.zip!/mill.md"]
    assert [skipped.path for skipped in found.skipped] == ["manual.zip!/broken.pdf"]
    assert found.ignored == {".exe": 1}
    assert found.notes == {"café.txt": ["read as cp1252"]}
    assert found.ledger.counts("generate").dropped == {"no rules for German": 1}
    questions = {row["messages"][0]["content"] for table in found.rows for row in table.to_pylist()}
    assert any("entrance fee of the mill" in question for question in questions)


def test_a_strict_build_stops_at_a_document_that_cannot_be_read(corpus):
    found = harvest(corpus)
    with pytest.raises(InputError, match=r"manual\.zip!/broken\.pdf can't be used: it is not a valid PDF"):
        found.require_no_skipped()
    found.skipped.clear()
    found.require_no_skipped()
