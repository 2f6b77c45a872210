"""Folders and files take the place of older ones whole, or leave them as they were."""

from pathlib import Path

import pytest

from llamafarm_ray.errors import ConflictError
from llamafarm_ray.storage.copying import check_output, put_in_place
from llamafarm_ray.storage.local import read_json_lines, write_whole


def folder(path, text):
    path.mkdir()
    (path / "a").write_text(text)
    return path


def test_a_folder_takes_its_place_and_the_older_one_goes(tmp_path):
    for text in ("old", "new"):
        put_in_place(folder(tmp_path / ".made", text), tmp_path / "out")
        assert (tmp_path / "out" / "a").read_text() == text
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_an_older_folder_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    output, made = folder(tmp_path / "out", "old"), folder(tmp_path / ".made", "new")
    rename = Path.rename

    def fail(path, target):
        if path == made:
            raise PermissionError(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        put_in_place(made, output)
    assert (output / "a").read_text() == "old"


def test_an_output_that_exists_is_replaced_only_if_that_is_asked_for(tmp_path):
    check_output(tmp_path / "out", overwrite=False)
    check_output(tmp_path, overwrite=True)
    with pytest.raises(ConflictError, match=f"{tmp_path.name}' exists already"):
        check_output(tmp_path, overwrite=False)


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path):
    path = tmp_path / "below" / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_line_that_was_cut_is_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    assert list(read_json_lines(path)) == []
    path.write_bytes(b'{"a": 1}\n[2]\n{"b": "\xc3')
    assert list(read_json_lines(path)) == [{"a": 1}]
