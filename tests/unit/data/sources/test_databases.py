"""Rows of a database are documents: read only, without passwords in names, and with errors that say what to do."""

import sqlite3
import sys
from datetime import date
from urllib.parse import quote

import pytest

from llamafarm_ray.data.sources import discover, read_file
from llamafarm_ray.data.sources.databases import is_database
from llamafarm_ray.errors import InputError

QUERY = "SELECT title, body AS text FROM articles WHERE public = 1 ORDER BY id"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "faq & more.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE articles (id INTEGER, title TEXT, body TEXT, public INTEGER, logo BLOB, day TEXT)"
        )
        connection.executemany(
            "INSERT INTO articles VALUES (?, ?, ?, ?, ?, ?)",
            [
                (1, "Hours", "The mill opens at eight.\n\nIt closes at six.", 1, b"\0\1", str(date(2026, 1, 2))),
                (2, "Prices", "A card costs 40 euros.", 1, None, None),
                (3, "Draft", "Nobody reads this.", 0, None, None),
            ],
        )
    connection.close()
    return path


def query_of(database, statement):
    return f"sqlite:///{database}?query={statement}"


def read(source):
    (file,) = discover(source).files
    (found,) = read_file(file.path, file.location)
    return file, found


def blocks(found):
    return [(section.headings, section.blocks, section.record) for section in found.document.sections]


@pytest.mark.parametrize("query", [QUERY, quote(QUERY), quote(QUERY).replace("%20", "+")])
def test_each_row_is_a_record_under_its_title(database, query):
    file, found = read(f"sqlite:///{database}?query={query}")
    assert file.path == f"faq & more.db?{QUERY}"
    assert blocks(found) == [
        (("Hours",), ("The mill opens at eight.", "It closes at six."), 1),
        (("Prices",), ("A card costs 40 euros.",), 2),
    ]
    assert read(f"sqlite:///{database}?query={query}")[1].document.digest == found.document.digest


def test_rows_without_a_text_are_their_columns_and_bytes_are_left_out(database):
    _, found = read(query_of(database, "SELECT id, title AS item, logo, day FROM articles WHERE id = 1"))
    assert blocks(found) == [((), ("id: 1; item: Hours; day: 2026-01-02",), 1)]


def test_a_relative_path_starts_at_the_current_directory_and_workers_may_be_elsewhere(database, monkeypatch, tmp_path):
    monkeypatch.chdir(database.parent)
    (file,) = discover(f"sqlite:///{quote(database.name)}?query={QUERY}").files
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (found,) = read_file(file.path, file.location)
    assert found.error == ""


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "has no query"),
        ("?query=", "has no query"),
        ("?query=SELECT nope FROM articles", "no such column: nope"),
        ("?query=DELETE FROM articles", "readonly database"),
        ("?query=DROP TABLE articles", "readonly database"),
    ],
)
def test_a_query_that_gives_no_rows_is_refused_before_anything_is_built(database, query, says):
    with pytest.raises(InputError, match=says):
        discover(f"sqlite:///{database}{query}")
    assert read(f"sqlite:///{database}?query={QUERY}")[1].error == ""


def test_a_missing_database_is_no_new_one(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        discover(f"sqlite:///{tmp_path}/none.db?query=SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_a_query_without_rows_is_skipped_with_its_reason(database):
    _, found = read(query_of(database, "SELECT title FROM articles WHERE id = 9"))
    assert found.error == "the query gives no row."


def test_other_databases_need_sqlalchemy_and_no_password_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(InputError, match="SQLAlchemy is not installed") as caught:
        discover("postgresql://me:secret@db.example.org/faq?query=SELECT 1")
    assert "secret" not in str(caught.value)
    assert "pip install sqlalchemy" in caught.value.hint


def test_sqlalchemy_reads_what_it_has_a_driver_for(database, monkeypatch):
    pytest.importorskip("sqlalchemy")
    monkeypatch.setattr("llamafarm_ray.data.sources.databases._Query.is_sqlite", False)
    _, found = read(f"sqlite:///{database}?query={QUERY}")
    assert [section.headings for section in found.document.sections] == [("Hours",), ("Prices",)]
    with pytest.raises(InputError, match="no such table: none"):
        discover(query_of(database, "SELECT * FROM none"))


def test_the_addresses_of_databases():
    assert is_database("postgresql+psycopg2://host/db?query=SELECT 1")
    assert not is_database("s3://bucket/docs")
    assert not is_database("sqlite.md")
