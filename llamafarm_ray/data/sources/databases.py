"""Rows of a database as documents: ``sqlite:///faq.db?query=SELECT title, text FROM articles``.

SQLite is read by Python's own library, which opens the file for reading only. Other databases need SQLAlchemy and their
driver; their statements run in a transaction that is rolled back.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sqlite3
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from llamafarm_ray.data.readers.base import MAX_TEXT_BYTES, DocumentError, EmptyDocumentError, OversizedDocumentError
from llamafarm_ray.data.sources.found import SourceFile, Sources, plain_path
from llamafarm_ray.errors import InputError

__all__ = ["ROWS_NAME", "find_rows", "is_database", "open_rows"]

ROWS_NAME = "rows.jsonl"
"""File name whose reader takes what `open_rows` returns."""

_SCHEMES = (
    "sqlite",
    "postgresql",
    "mysql",
    "mariadb",
    "mssql",
    "oracle",
    "duckdb",
    "snowflake",
    "bigquery",
)


@dataclass(frozen=True, slots=True)
class _Query:
    """A statement and where it runs.

    Args:
        url: of the database, without the query, as SQLAlchemy takes it.
        statement: that gives the rows.
        name: of the document: database and statement, without a password.
    """

    url: str
    statement: str
    name: str

    @classmethod
    def of(cls, uri: str) -> _Query:
        parts = urlsplit(uri)
        # A statement may be written as it is: its own "?", "&" and "#" end up in these parts.
        options, _, statement = (f"{parts.query}#{parts.fragment}" if parts.fragment else parts.query).partition(
            "query="
        )
        if not statement.strip():
            raise InputError(
                f"The source {_public(uri)!r} has no query.", hint="Append ?query=SELECT title, text FROM articles."
            )
        statement = (
            " ".join(unquote(statement.replace("+", " ")).split()) if _is_encoded(statement) else statement.strip()
        )
        kept = urlencode(parse_qsl(options.strip("&")))
        url = f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{kept}" if kept else "")
        where = Path(unquote(parts.path)).name or parts.hostname or parts.scheme
        return cls(url, statement, plain_path(f"{where}?{' '.join(statement.split())}"))

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite:")

    @property
    def file(self) -> Path:
        """The file of an SQLite database: ``sqlite:///relative.db``, ``sqlite:////absolute.db``."""
        return Path(unquote(urlsplit(self.url).path[1:])).expanduser().absolute()


def _is_encoded(statement: str) -> bool:
    """Return True for a statement as a browser writes it; one with a space is as a person writes it."""
    return " " not in statement.strip()


def _public(uri: str) -> str:
    """Return a URI without user and password."""
    return re.sub(r"://[^/]*@", "://", uri, count=1)


def is_database(uri: str) -> bool:
    """Return True for the address of a database."""
    return uri.partition("://")[0].partition("+")[0] in _SCHEMES and "://" in uri


def find_rows(uri: str) -> Sources:
    """Return the rows of a query as one document, after the database was asked whether it knows the query.

    Raises:
        InputError: the database can't be reached, or refuses the query; or SQLAlchemy is needed and missing.
    """
    query = _Query.of(uri)
    if query.is_sqlite and not query.file.is_file():
        raise InputError(
            f"The database {str(query.file)!r} does not exist.", hint="Three slashes start a relative path."
        )
    try:
        with contextlib.closing(_rows(query)) as rows:
            next(rows, None)
    except DocumentError as error:
        raise InputError(f"The source {_public(uri)!r} can't be read: {error.message}", hint=error.hint) from error
    location = uri
    if query.is_sqlite:  # workers have other current folders
        location = f"sqlite:///{quote(str(query.file))}?query={quote(query.statement)}"
    return Sources(files=[SourceFile(query.name, location.encode())])


def open_rows(uri: str) -> IO[bytes]:
    """Return the rows of a query as JSON lines.

    Raises:
        DocumentError: the database can't be reached, or the rows are none or too many.
    """
    text = io.BytesIO()
    for row in _rows(_Query.of(uri)):
        text.write(json.dumps(row, ensure_ascii=False, default=_plain).encode() + b"\n")
        if text.tell() > MAX_TEXT_BYTES:
            raise OversizedDocumentError(
                f"its rows are more than {MAX_TEXT_BYTES >> 20} MiB of text.", hint="Ask for them in several queries."
            )
    if not text.tell():
        raise EmptyDocumentError("the query gives no row.")
    text.seek(0)
    return text


def _plain(value: object) -> str | None:
    """Return a date, a number or the like as text; nothing for bytes."""
    return None if isinstance(value, bytes | memoryview) else str(value)


def _rows(query: _Query) -> Generator[dict[str, object], None, None]:
    return _sqlite_rows(query) if query.is_sqlite else _other_rows(query)


def _sqlite_rows(query: _Query) -> Generator[dict[str, object], None, None]:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(query.file))}?mode=ro", uri=True)) as connection:
            found = connection.execute(query.statement)
            names = [column[0] for column in found.description or ()]
            yield from _named(names, found)
    except sqlite3.Error as error:
        raise DocumentError(f"the database refuses the query ({error}).", hint=f"It is: {query.statement}") from error


def _other_rows(query: _Query) -> Generator[dict[str, object], None, None]:
    try:
        import sqlalchemy  # few sources are databases
    except ModuleNotFoundError as error:
        raise DocumentError(
            "SQLAlchemy is not installed, which reads databases other than SQLite.",
            hint="Install it with the database's driver: pip install sqlalchemy psycopg2-binary",
        ) from error
    try:
        engine = sqlalchemy.create_engine(query.url)
        with contextlib.closing(engine.connect()) as connection:  # which rolls back
            found = connection.execution_options(stream_results=True).execute(sqlalchemy.text(query.statement))
            yield from _named(list(found.keys()), found)
    except ModuleNotFoundError as error:
        raise DocumentError(f"the database's driver {error.name!r} is not installed.", hint="Install it.") from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        raise DocumentError(
            f"the database can't be read ({reason}).", hint=f"The query is: {query.statement}"
        ) from error


def _named(names: list[str], rows: Iterable[Any]) -> Generator[dict[str, object], None, None]:
    if not names:
        raise DocumentError("the statement gives no rows.", hint="Write one that begins with SELECT.")
    for row in rows:
        yield dict(zip(names, row, strict=True))
