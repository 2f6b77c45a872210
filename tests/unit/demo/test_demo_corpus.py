"""The demo's handbook is complete and readable, and its revision changes exactly the facts that it claims to."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from llamafarm_ray.data.readers import reader_for
from llamafarm_ray.data.text import num_words

DEMO = Path(__file__).resolve().parents[3] / "jobs" / "demo"
sys.path.insert(0, str(DEMO))

import make_documents  # noqa: E402  jobs/ holds scripts, no package

DOCUMENTS = sorted(path for path in (DEMO / "corpus").rglob("*") if path.is_file())


def text_of(path):
    document = reader_for(path).read(path.read_bytes(), path.name)
    return "\n".join(block for section in document.sections for block in section.blocks)


def texts_of(folder):
    return {path.relative_to(folder): text_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def first_edition():
    return texts_of(DEMO / "corpus")


@pytest.fixture(scope="module")
def second_edition(first_edition):
    return first_edition | texts_of(DEMO / "revision")


@pytest.fixture(scope="module")
def questions():
    return json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))


def test_has_at_least_four_documents_of_each_of_five_formats():
    formats = [path.suffix for path in DOCUMENTS]
    assert len(formats) >= 28
    assert set(formats) == {".md", ".txt", ".html", ".pdf", ".docx"}
    assert min(formats.count(suffix) for suffix in set(formats)) >= 4


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document_reads_as_a_page_with_headings(path):
    document = reader_for(path).read(path.read_bytes(), path.name)
    assert 150 <= num_words(text_of(path)) <= 400
    assert len({section.headings for section in document.sections}) >= 3


def test_no_two_documents_say_the_same_sentence(first_edition):
    lines = [line for text in first_edition.values() for line in text.splitlines()]
    assert len(lines) == len(set(lines))


def test_revision_replaces_documents_of_the_corpus(first_edition):
    revised = texts_of(DEMO / "revision")
    assert 2 <= len(revised) <= 3
    assert all(first_edition[path] != text for path, text in revised.items())


def test_first_answers_stand_in_the_first_edition(first_edition, questions):
    text = " ".join(first_edition.values())
    for question in questions:
        assert question["answer_v1"] in text
        assert question["fact"] in question["answer_v1"]


def test_second_answers_stand_in_the_second_edition(second_edition, questions):
    text = " ".join(second_edition.values())
    for question in questions:
        assert question["answer_v2"] in text
        assert question["fact_v2"] in question["answer_v2"]


def test_revised_facts_are_new_and_the_old_ones_are_gone(first_edition, second_edition, questions):
    revised = [question for question in questions if question["answer_v1"] != question["answer_v2"]]
    before, after = " ".join(first_edition.values()), " ".join(second_edition.values())
    assert len(revised) >= 3
    for question in revised:
        assert question["fact_v2"] not in before
        assert question["answer_v1"] not in after


def test_committed_documents_are_what_their_sources_make(tmp_path):
    written = make_documents.make_documents(DEMO / "sources", tmp_path)
    committed = {path: hashlib.sha256((DEMO / path.relative_to(tmp_path)).read_bytes()).digest() for path in written}
    assert committed == {path: hashlib.sha256(path.read_bytes()).digest() for path in written}
