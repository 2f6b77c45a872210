"""Small results of a job come back in its output, which shows all the rest as it was printed."""

import os

import pytest

from llamafarm_ray.workflows.jobs.returned import RETURN_VARIABLE, ReturnedFiles, returned_lines


@pytest.fixture
def made(tmp_path):
    """A result that takes several lines."""
    path = tmp_path / "there.json"
    path.write_bytes(os.urandom(30_000))
    return path


@pytest.fixture
def lines(made, monkeypatch):
    monkeypatch.setenv(RETURN_VARIABLE, "1")
    found = list(returned_lines("--output", made))
    assert len(found) > 3
    assert max(map(len, found)) < 20_000, "Ray cuts longer lines"
    return found


@pytest.mark.parametrize("piece", [1, 7, 1000, 10**6])
def test_a_file_arrives_however_the_output_is_cut_and_the_rest_is_shown(made, lines, tmp_path, piece):
    place = tmp_path / "new" / "eval.json"
    files = ReturnedFiles({"--output": place})
    text = "".join(["Scores: 0.9\n", *lines[:2], "a warning, llamafarm-file: no\n", *lines[2:], "llama\nDone"])
    shown = "".join(files.visible(text[start : start + piece]) for start in range(0, len(text), piece)) + files.rest()
    assert shown == "Scores: 0.9\na warning, llamafarm-file: no\nllama\nDone"
    assert place.read_bytes() == made.read_bytes()
    assert files.written == [place]


def test_progress_without_a_line_end_is_shown_at_once():
    files = ReturnedFiles({})
    assert files.visible("step 1") == "step 1"
    assert files.visible("\rstep 2") == "\rstep 2"


def test_no_file_is_written_that_was_not_asked_for(lines, tmp_path):
    files = ReturnedFiles({"--report": tmp_path / "report.html"})
    assert files.visible("".join(lines)) == "".join(lines)
    assert files.written == []


def test_a_file_with_a_missing_or_broken_part_is_none(lines, tmp_path):
    for broken in (lines[:1] + lines[2:], [*lines[:-1], lines[-1].replace("=", "%")[:-9] + "%\n"]):
        files = ReturnedFiles({"--output": tmp_path / "eval.json"})
        files.visible("".join(broken))
        assert files.written == []


def test_nothing_is_sent_where_nobody_follows(made, monkeypatch):
    monkeypatch.delenv(RETURN_VARIABLE, raising=False)
    assert list(returned_lines("--output", made)) == []
