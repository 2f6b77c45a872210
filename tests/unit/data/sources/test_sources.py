"""Which files of a source are documents, and what is said about the others."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler

import fsspec
import pyarrow as pa
import pyarrow.ipc
import pytest
import zstandard
from http_server import QuietHandler, http_server

from llamafarm_ray.data.readers import MAX_DOCUMENT_BYTES, MAX_TEXT_BYTES
from llamafarm_ray.data.report import DocumentCounts, source_lines
from llamafarm_ray.data.sources import SkippedDocument, containers, discover, read_file, reading
from llamafarm_ray.errors import InputError


def paths(found):
    return [file.path for file in found.files]


def test_documents_are_found_all_the_way_down_in_order(tmp_path):
    for name in ("b.md", "a/z.txt", "a/b/c.PDF", ".hidden.md", ".git/x.md", "x.bin", "y.bin", "Makefile"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    found = discover(tmp_path)
    assert sorted(paths(found)) == ["Makefile", "a/b/c.PDF", "a/z.txt", "b.md"]
    assert found.ignored == {".bin": 2}


def test_a_single_file_is_a_source(tmp_path):
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "b.md").write_text("x")
    assert paths(discover(tmp_path / "a.md")) == ["a.md"]


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        discover(tmp_path / "none")


def test_a_source_without_documents_names_what_is_supported_and_what_was_found(tmp_path):
    with pytest.raises(InputError, match=r"no files.*\.docx, .*\.pdf"):
        discover(tmp_path)
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(InputError, match=r"only other files \(1 \.xyz\)"):
        discover(tmp_path)


def test_links_do_not_lead_out_of_the_source(tmp_path):
    outside = tmp_path / "outside"
    source = tmp_path / "source"
    outside.mkdir()
    source.mkdir()
    (outside / "secret.md").write_text("x")
    (source / "a.md").write_text("x")
    (source / "inside.md").symlink_to(source / "a.md")
    (source / "out.md").symlink_to(outside / "secret.md")
    (source / "nowhere.md").symlink_to(source / "missing.md")
    (source / "loop.md").symlink_to(source / "loop.md")
    (source / "folder").symlink_to(outside)
    found = discover(source)
    assert paths(found) == ["a.md", "inside.md"]
    assert {skipped.path: skipped.reason for skipped in found.skipped} == {
        "out.md": "it is a link that leads out of the source.",
        "nowhere.md": "it is a link that leads nowhere.",
        "loop.md": "it is a link that leads nowhere.",
        "folder": "it is a link to a folder, which is not followed.",
    }


def test_a_linked_source_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.md").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert paths(discover(tmp_path / "link")) == ["a.md"]


def test_what_is_too_large_or_no_file_is_skipped_unopened(tmp_path):
    for name, limit in (("huge.pdf", MAX_DOCUMENT_BYTES), ("huge.txt", MAX_TEXT_BYTES)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(limit + 1)
    os.mkfifo(tmp_path / "pipe.txt")
    found = discover(tmp_path)
    assert found.files == []
    reasons = {skipped.path: skipped.reason for skipped in found.skipped}
    assert "64 MiB" in reasons["huge.pdf"]
    assert "256 MiB" in reasons["huge.txt"]
    assert reasons["pipe.txt"] == "it is no regular file."


def test_the_output_inside_of_the_source_is_not_looked_into(tmp_path):
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.md").write_text("x")
    assert paths(discover(tmp_path, exclude=tmp_path / "out")) == ["a.md"]


def test_names_that_are_no_text_are_escaped(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.md"
    try:
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"x")
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    (file,) = discover(tmp_path).files
    assert file.path == "caf\\xe9.md"
    assert file.location == path


def test_names_with_line_ends_stay_on_one_line(tmp_path):
    (tmp_path / "a\nb.md").write_text("x")
    (file,) = discover(tmp_path).files
    assert file.path == "a\\x0ab.md"
    assert [read.path for read in read_file(file.path, file.location)] == ["a\\x0ab.md"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = discover(tmp_path)
    assert found.skipped == [SkippedDocument("locked", "the folder can't be listed: Permission denied.")]
    assert paths(found) == ["a.md"]


_TABLE = ("rows.csv.gz", "rows.report.html", "rows.report.json", "rows.validation.csv.gz")


def test_built_datasets_are_no_documents(tmp_path):
    for name in (
        "a.md",
        "old/dataset.json",
        "old/report.json",
        "old/train/p.parquet",
        "qa.jsonl",
        "qa.report.json",
        *_TABLE,
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = discover(tmp_path)
    assert paths(found) == ["a.md"]
    assert [skipped.path for skipped in found.skipped] == ["qa.jsonl", "qa.report.json", *_TABLE, "old"]
    assert [skipped.path for skipped in discover(tmp_path, exclude=tmp_path / "qa.jsonl").skipped] == [*_TABLE, "old"]


def test_a_folder_that_datasets_saved_is_its_rows_alone(tmp_path):
    split = tmp_path / "saved" / "train"
    split.mkdir(parents=True)
    rows = pa.table({"title": ["Hours"], "text": ["The mill opens at eight."]})
    with pa.OSFile(str(split / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, rows.schema) as out:
        out.write_table(rows)
    for name in ("train/state.json", "train/dataset_info.json", "dataset_dict.json"):
        (tmp_path / "saved" / name).write_text("{}")
    found = discover(tmp_path / "saved")
    assert paths(found) == ["train/data-00000-of-00001.arrow"]
    assert found.ignored == {"(description of a datasets folder)": 3}
    (read,) = read_file(found.files[0].path, found.files[0].location)
    assert [(section.headings, section.blocks) for section in read.document.sections] == [
        (("Hours",), ("The mill opens at eight.",))
    ]


# Several sources, patterns


def test_several_sources_have_paths_of_their_own(tmp_path):
    for name in ("docs/a.md", "old/docs/a.md", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = discover([str(tmp_path / "docs"), str(tmp_path / "old/docs"), str(tmp_path / "b.txt")])
    assert paths(found) == ["docs/a.md", "docs-2/a.md", "b.txt"]
    with pytest.raises(InputError, match="'/none/here' does not exist"):
        discover([str(tmp_path / "docs"), "/none/here"])


def test_patterns_choose_files(tmp_path, monkeypatch):
    for name in ("docs/a.md", "docs/x/b.md", "docs/x/c.txt", "docs/x/d.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert paths(discover(f"{tmp_path}/docs/**/*.md")) == ["a.md", "x/b.md"]
    monkeypatch.chdir(tmp_path)
    assert paths(discover("docs/*/*")) == ["x/b.md", "x/c.txt"]
    assert paths(discover(f"file://{tmp_path}/docs")) == ["a.md", "x/b.md", "x/c.txt"]
    with pytest.raises(InputError, match=r"No file matches the source '.*\*\.rst'"):
        discover(f"{tmp_path}/*.rst")


# URIs


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    for name in ("a.md", "x/b.txt", "x/c.bin", ".hidden/d.md"):
        fs.pipe_file(f"/corpus/{name}", b"The mill is old.")
    yield "memory://corpus"
    fs.rm("/corpus", recursive=True)


def texts(found):
    return {
        read.path: [block for section in read.document.sections for block in section.blocks]
        if read.document
        else read.error
        for file in found.files
        for read in read_file(file.path, file.location)
    }


def test_a_uri_is_listed_and_read(memory):
    found = discover(memory)
    assert texts(found) == {"a.md": ["The mill is old."], "x/b.txt": ["The mill is old."]}
    assert found.ignored == {".bin": 1}
    assert paths(discover(f"{memory}/x/b.txt")) == ["b.txt"]
    assert paths(discover(f"{memory}/**/*.txt")) == ["x/b.txt"]


@pytest.mark.parametrize("uri", ["memory://nowhere/at-all", "memory://nowhere/*.md", "nosuch://x/y"])
def test_a_uri_without_anything_is_named_as_given(uri):
    with pytest.raises(InputError) as caught:
        discover(uri)
    assert repr(uri) in str(caught.value)


def test_a_file_that_is_gone_when_its_turn_comes_is_skipped(memory):
    found = discover(memory)
    fsspec.filesystem("memory").rm("/corpus/a.md")
    assert "can't be read" in texts(found)["a.md"]


@pytest.fixture
def site(tmp_path):
    (tmp_path / "page").write_text("<html><body><p>The mill is old.</p><p>It was built in 1890.</p></body></html>")
    (tmp_path / "notes.txt").write_text("The mill is old.")

    class Files(QuietHandler, SimpleHTTPRequestHandler):
        pass

    with http_server(partial(Files, directory=str(tmp_path))) as url:
        yield url


def test_a_page_of_the_web_is_one_document(site):
    assert texts(discover(f"{site}/page?x=1")) == {f"{site}/page?x=1": ["The mill is old.", "It was built in 1890."]}
    assert texts(discover(f"{site}/notes.txt")) == {f"{site}/notes.txt": ["The mill is old."]}
    with pytest.raises(InputError, match=f"'{site}/none' does not exist"):
        discover(f"{site}/none")


# Archives


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


TEXT = b"The mill is old."
INNER = {"./a.md": TEXT, "x/b.exe": b"MZ", "__MACOSX/c.md": b"x", ".d.md": b"x"}


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("o.zip", zipped(INNER), "o.zip!/a.md"),
        ("o.tar", tarred(INNER), "o.tar!/a.md"),
        ("o.tgz", gzip.compress(tarred(INNER)), "o.tgz!/a.md"),
        ("o.tar.zst", zstandard.compress(tarred(INNER)), "o.tar.zst!/a.md"),
        ("o.md.gz", gzip.compress(TEXT), "o.md.gz!/o.md"),
        ("o.md.zst", zstandard.compress(TEXT), "o.md.zst!/o.md"),
        ("o.md.bz2", bz2.compress(TEXT), "o.md.bz2!/o.md"),
        ("o.md.xz", lzma.compress(TEXT), "o.md.xz!/o.md"),
        ("o.zip", zipped({"i.zip": zipped({"a.md": TEXT})}), "o.zip!/i.zip!/a.md"),
    ],
)
def test_archives_are_read_file_by_file(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    assert {key: value for key, value in texts(discover(tmp_path)).items() if value} == {expected: ["The mill is old."]}


def test_files_of_other_types_in_an_archive_are_counted(tmp_path):
    (tmp_path / "o.zip").write_bytes(zipped(INNER))
    (file,) = discover(tmp_path).files
    assert [read.ignored for read in read_file(file.path, file.location) if read.ignored] == [".exe"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("o.zip", b"PK no more", "damaged archive"),
        ("o.zip", zipped({}), "no file in it"),
        ("o.txt.gz", gzip.compress(TEXT)[:-6], "damaged archive"),
        ("o.tar.gz", gzip.compress(b"x" * 2000), "damaged archive"),
        ("o.txt.zst", b"no zstd", "damaged archive"),
        ("o.zip", zipped({"i.zip": zipped({"j.zip": zipped({"a.md": TEXT})})}), "archives deep"),
        ("o.zip", zipped({"a.pdf": b"no PDF"}), "not a valid PDF"),
    ],
)
def test_broken_archives_are_skipped_with_a_reason(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    (text,) = texts(discover(tmp_path)).values()
    assert reason in text


def test_an_archive_that_unpacks_to_too_much_is_left_off(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 50)
    (tmp_path / "o.zip").write_bytes(zipped({"a.txt": TEXT, "b.txt": b"x" * 1_000_000, "c.txt": TEXT}))
    found = texts(discover(tmp_path))
    assert list(found) == ["o.zip!/a.txt", "o.zip!/b.txt"]
    assert "unpacks to more than" in found["o.zip!/b.txt"]
    monkeypatch.setattr(containers, "_MAX_MEMBERS", 2)
    assert "3 files" in texts(discover(tmp_path))["o.zip"]


# Reading


def test_a_file_that_changes_while_it_is_read_is_skipped(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x")
    state = reading._state
    states = []

    def grow_after_the_first_look(file):
        if states:
            path.write_text("more than before")
        states.append(state(file))
        return states[-1]

    found = discover(tmp_path)
    monkeypatch.setattr(reading, "_state", grow_after_the_first_look)
    assert "changed while it was read" in texts(found)["a.txt"]


def test_a_pipe_that_took_the_place_of_a_file_is_not_waited_for(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    found = discover(tmp_path)
    (tmp_path / "a.txt").unlink()
    os.mkfifo(tmp_path / "a.txt")
    assert texts(found) == {"a.txt": "it is no regular file."}


# The report


def test_what_was_not_read_is_told_in_a_bounded_number_of_lines():
    skipped = [SkippedDocument(f"{number:02}.pdf", "broken.") for number in range(12)]
    counts = DocumentCounts(13, 1, skipped, {".xyz": 32, ".bin": 1}, {"a.txt": ["read as cp1252"]})
    lines = source_lines(counts)
    assert len(lines) == 13
    assert lines[0] == "skipped 00.pdf: broken."
    assert lines[10] == "and 2 more: see report.json"
    assert lines[11] == "a.txt: read as cp1252"
    assert lines[12] == "46 files: 1 read, 12 skipped, 33 of other types (32 .xyz, 1 .bin)"
    assert source_lines(DocumentCounts(1, 1, [], {})) == []
