"""Which files of a source are documents, and what is said about the others."""

import os

import pytest

from llamafarm_ray.data.readers import MAX_DOCUMENT_BYTES
from llamafarm_ray.data.sources import discover
from llamafarm_ray.errors import InputError


def paths(found):
    return [file.path for file in found.files]


def test_documents_are_found_all_the_way_down_in_order(tmp_path):
    for name in ("b.md", "a/z.txt", "a/b/c.PDF", ".hidden.md", ".git/x.md", "x.bin", "Makefile"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    found = discover(tmp_path)
    assert sorted(paths(found)) == ["a/b/c.PDF", "a/z.txt", "b.md"]
    assert found.ignored == {".bin": 1, "(no extension)": 1}


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
    }


def test_a_linked_source_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.md").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert paths(discover(tmp_path / "link")) == ["a.md"]


def test_what_is_too_large_or_no_file_is_skipped_unopened(tmp_path):
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.txt")
    found = discover(tmp_path)
    assert found.files == []
    reasons = {skipped.path: skipped.reason for skipped in found.skipped}
    assert "64 MiB" in reasons["huge.txt"]
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
