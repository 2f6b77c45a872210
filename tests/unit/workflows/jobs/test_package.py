"""What a job takes along: what it reads and what git keeps, nothing hidden, nothing too large, nothing from outside."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.workflows.jobs.package import MAX_PACKAGE_BYTES, WorkingDirectory
from llamafarm_ray.workflows.jobs.request import JobRequest, command_of, table_of


@pytest.fixture
def folder(tmp_path, monkeypatch):
    project = tmp_path / "project"
    for name in (
        *("docs/a.md", "code.py", ".env", ".secret/config", ".venv/x.py", "trained_models/m/adapter.bin"),
        *("runs/base/config.json", "runs/other/log", "__pycache__/code.pyc", "data/rows.jsonl"),
    ):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(project)
    return project


def packed(directory, folder):
    target = folder.parent / "package.zip"
    directory.pack(target, {"job.json": b"{}"})
    with zipfile.ZipFile(target) as package:
        return {name: package.read(name).decode() for name in package.namelist()}


def test_hidden_files_and_the_results_of_runs_stay_here(folder):
    found = packed(WorkingDirectory.current(), folder)
    assert found == {name: name for name in ("code.py", "data/rows.jsonl", "docs/a.md")} | {"job.json": "{}"}


def test_what_git_ignores_stays_here(folder):
    (folder / ".gitignore").write_text("/data/\n")
    subprocess.run(["git", "init", "-q", "."], check=True)
    assert set(packed(WorkingDirectory.current(), folder)) == {"code.py", "docs/a.md", "job.json"}


def test_what_the_job_is_told_to_read_goes_along_wherever_it_is(folder):
    (folder / ".gitignore").write_text("/data/\n")
    subprocess.run(["git", "init", "-q", "."], check=True)
    directory = WorkingDirectory.current()
    assert directory.take("base_model", "runs/base") == "runs/base"
    assert directory.take("dataset.path", str(folder / "data" / "rows.jsonl")) == "data/rows.jsonl"
    assert directory.take("dataset.path", f"{folder}/data/rows.jsonl#part") == "data/rows.jsonl#part"
    assert {"runs/base/config.json", "data/rows.jsonl"} < set(packed(directory, folder))
    assert "runs/other/log" not in packed(directory, folder)


def test_a_link_to_a_folder_elsewhere_is_followed(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "b.md").write_text("b")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    directory = WorkingDirectory.current()
    assert directory.take("dataset.source.path", "linked") == "linked"
    assert packed(directory, folder)["linked/b.md"] == "b"


def test_of_a_pattern_the_folder_goes_along(folder):
    (folder / ".gitignore").write_text("/docs/\n")
    subprocess.run(["git", "init", "-q", "."], check=True)
    directory = WorkingDirectory.current()
    assert directory.take("dataset.source.path", "docs/**/*.md") == "docs/**/*.md"
    assert directory.take("dataset.source.path", "/none/*.md") == "/none/*.md"
    assert "docs/a.md" in packed(directory, folder)


def test_folders_that_link_to_each_other_end(folder):
    (folder / "docs" / "up").symlink_to(folder)
    assert "docs/a.md" in packed(WorkingDirectory.current(), folder)


@pytest.mark.parametrize("text", ["s3://bucket/data", "meta-llama/Llama-3.1-8B", "bot@production", "/mnt/shared/base"])
def test_what_is_not_on_this_machine_is_the_clusters(folder, text):
    directory = WorkingDirectory.current()
    assert directory.take("base_model", text) == text
    assert directory.named == set()


def test_what_another_job_wrote_is_the_clusters_even_on_this_machine(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    made = folder.parent / "llamafarm-jobs" / "ann" / "qa"
    made.mkdir(parents=True)
    assert WorkingDirectory.current().take("dataset.path", str(made)) == str(made)


def test_what_is_here_but_outside_is_refused_by_name(folder):
    (folder.parent / "secret.jsonl").write_text("{}")
    for text in ("../secret.jsonl", str(folder.parent / "secret.jsonl")):
        with pytest.raises(InputError, match=r"dataset\.path: .*secret\.jsonl.* outside of the working directory"):
            WorkingDirectory.current().take("dataset.path", text)


@pytest.mark.parametrize("place", ["home", "/"])
def test_a_whole_home_or_disk_is_no_working_directory(folder, monkeypatch, place):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder if place == "home" else place)
    with pytest.raises(InputError, match="takes the working directory along"):
        WorkingDirectory.current()


def test_too_much_is_refused_with_the_largest_files_by_name(folder):
    for name, size in (("huge.bin", MAX_PACKAGE_BYTES), ("large.bin", 2**20)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(
        InputError, match=r"has 513 MiB in 5 files.*512 MiB.*huge\.bin \(512 MiB\), large\.bin \(1 MiB\)"
    ):
        packed(WorkingDirectory.current(), folder)
    assert not (folder.parent / "package.zip").exists()


def test_the_same_files_make_the_same_package(folder):
    first, second = (folder.parent / name for name in ("1.zip", "2.zip"))
    WorkingDirectory.current().pack(first, {})
    (folder / "code.py").touch()
    WorkingDirectory.current().pack(second, {})
    assert first.read_bytes() == second.read_bytes()


def request(**more):
    config = parse_config({"name": "bot", "cluster": {"address": "http://head:8265"}, **more.pop("config", {})})
    return JobRequest(more.pop("verb", "train"), config, **more)


def test_the_job_runs_the_same_verb_with_the_resolved_configuration(folder):
    asked = request(config={"base_model": str(folder / "runs" / "base"), "dataset": {"path": "data/rows.jsonl"}})
    table = table_of(asked, WorkingDirectory.current())
    assert table["cluster"]["address"] is None
    assert table["base_model"] == "runs/base"
    assert parse_config(table).fine_tuning == asked.config.fine_tuning


def test_relative_outputs_go_where_they_outlast_the_job_and_absolute_ones_where_they_say(folder, monkeypatch):
    directory = WorkingDirectory.current()
    monkeypatch.setenv("LLAMAFARM_PRINCIPAL", "ann b")
    command = command_of(request(outputs={"--output": Path("./out dir/m")}, flags=("--register",)), directory)
    assert command.endswith(" --register --output \"$HOME\"/'llamafarm-jobs/ann-b/project/out dir/m'")
    assert command_of(request(outputs={"--output": Path("/srv/m")}), directory).endswith(" --output /srv/m")
    with pytest.raises(InputError, match="leads out of the working directory"):
        command_of(request(outputs={"--output": Path("../m")}), directory)


def test_a_mixtures_datasets_and_the_model_to_evaluate_go_along(folder):
    directory = WorkingDirectory.current()
    table = table_of(request(config={"dataset": {"mixture": {str(folder / "data/rows.jsonl"): 3}}}), directory)
    assert table["dataset"]["mixture"] == {"data/rows.jsonl": 3}
    command = command_of(request(verb="evaluate", inputs={"--model": str(folder / "runs" / "base")}), directory)
    assert command.endswith("--model runs/base")
    assert len(directory.named) == 2


def test_what_lasts_may_not_be_in_the_jobs_own_folder(folder, monkeypatch):
    with pytest.raises(InputError, match="home: 'home' would be in the job's own folder"):
        table_of(request(config={"home": "home"}), WorkingDirectory.current())
    for home, sent in (("s3://bucket/home", "s3://bucket/home"), ("/home/ann/.llamafarm", None)):
        monkeypatch.setenv("LLAMAFARM_HOME", home)
        assert table_of(request(), WorkingDirectory.current())["home"] == sent
