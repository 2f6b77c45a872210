"""No file takes more than its time and memory, or ends the process that builds."""

import os
import signal
from pathlib import Path

import pytest

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.build.documents import files_table, process_documents
from llamafarm_ray.data.sources import FileLimits, SourceFile, guarded, read_within

LIMITS = FileLimits(seconds=60, memory_bytes=1 << 30)
PAGE = "<h1>Mill</h1><p>The mill opens at eight.</p>"
LARGE = f"<!-- {40_000 * 'x'} -->"

# Stands in for the module of the reading process, so that a file does what a parser might.
MISBEHAVING = """
import os, signal, sys, time
from llamafarm_ray.data.sources import reader_process, reading

parsed = reading._parsed

def misbehave(path, name, data):
    if b"SLEEP" in data:
        time.sleep(600)
    if b"CRASH" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"GROW" in data:
        bytearray(8 << 30)
    return parsed(path, name, data)

reading._parsed = misbehave
reader_process.main()
"""


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """Files with SLEEP, CRASH or GROW in them do that to their reader."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "misbehaving.py").write_text(MISBEHAVING)
    monkeypatch.setattr(guarded, "_MODULE", "misbehaving")
    monkeypatch.setattr(guarded, "_readers", {})
    monkeypatch.syspath_prepend(str(folder))
    yield
    for reader in guarded._readers.values():
        reader.end()


def write(folder: Path, **contents):
    for name, content in contents.items():
        (folder / f"{name}.html").write_text(content + LARGE)
    return [SourceFile(f"{name}.html", bytes(folder / f"{name}.html")) for name in contents]


def test_a_file_whose_reader_crashes_or_grows_is_named_and_the_others_are_read(tmp_path, misbehaving):
    files = write(tmp_path, a_crash="CRASH", b_good=PAGE, c_big="GROW", d_good=PAGE)
    config = DatasetConfig.model_validate({"source": {"file_memory_mb": 1024}})
    tables = process_documents(files_table(files), config=config, by_rules=True)
    rows = [row for table in tables for row in table.to_pylist()]
    errors = {row["path"]: row["error"] for row in rows}
    assert errors["a_crash.html"].startswith(f"the process that read it ended (signal {signal.SIGSEGV:d})")
    assert errors["c_big.html"].startswith("its reader ran out of memory (dataset.source.file_memory_mb).")
    assert (errors["b_good.html"], errors["d_good.html"]) == ("", "")


def test_a_file_that_takes_too_long_is_named(tmp_path, misbehaving):
    (file,) = write(tmp_path, slow="SLEEP")
    (read,) = read_within(file.path, file.location, FileLimits(seconds=0.5, memory_bytes=1 << 30))
    assert read.error == "it was not read within 0.5 s (dataset.source.file_timeout_s)."


def test_one_process_reads_one_file_after_another_and_small_text_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(guarded, "_readers", {})
    (tmp_path / "a.md").write_text("# Mill\n\nThe mill opens at eight.\n")
    (read,) = read_within("a.md", bytes(tmp_path / "a.md"), LIMITS)
    assert read.document.title == "Mill"
    assert guarded._readers == {}
    pages = write(tmp_path, one=PAGE, two=PAGE)
    found, processes = [], set()
    for page in pages:
        found += read_within(page.path, page.location, LIMITS)
        processes.add(guarded._readers[os.getpid()]._process.pid)
    assert [read.document.path for read in found] == ["one.html", "two.html"]
    assert len(processes) == 1
    guarded._readers[os.getpid()].end()
