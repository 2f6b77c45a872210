"""A few documents become a dataset in one process, without Ray; for more of them, and for models, Ray is asked for."""

import subprocess
import sys
import zipfile

import pytest

from llamafarm_ray.config import DatasetConfig, parse_config
from llamafarm_ray.data import build_dataset, fits_one_process
from llamafarm_ray.data.build import stages
from llamafarm_ray.data.build.pipeline import BuildOptions
from llamafarm_ray.data.sources import discover
from llamafarm_ray.errors import ClusterError
from llamafarm_ray.workflows.datasets.create_dataset import check_source

BY_RULES = DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "rules"}}})


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, year in {"north": 1910, "south": 1924}.items():
        (folder / f"{name}.md").write_text(f"# The {name} bridge\n\nThe {name} bridge was built in {year}.\n")
    return folder


def test_a_build_of_a_few_documents_never_imports_ray(documents, tmp_path):
    program = (
        "import sys\n"
        "from llamafarm_ray.cli.main import main\n"
        f"sys.argv[1:] = ['models', 'create-dataset', '--source', {str(documents)!r}, '--output', 'qa', '--json']\n"
        "try:\n    main()\n"
        "finally:\n    print('ray' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"LLAMAFARM_HOME": str(tmp_path / "home"), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert (tmp_path / "qa" / "report.html").is_file()


def test_the_same_documents_are_the_same_dataset_when_they_go_on_from_a_finished_part(documents, tmp_path, monkeypatch):
    whole = build_dataset(str(documents), tmp_path / "a", BY_RULES, name="a", seed=7)
    assert whole.documents.read == 2
    assert whole.num_train + whole.num_validation > 0

    def stop(stage):
        if stage.name == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(str(documents), tmp_path / "b", BY_RULES, name="a", seed=7, options=BuildOptions(progress=stop))
    assert list((tmp_path / ".b.unfinished").iterdir())
    monkeypatch.setattr(stages, "process_documents", lambda *_, **__: pytest.fail("the documents are read again"))
    assert build_dataset(str(documents), tmp_path / "b", BY_RULES, name="a", seed=7).digest == whole.digest


def test_what_one_process_reads_is_one_task_of_known_size(documents):
    assert fits_one_process(discover(str(documents)).files)
    assert not fits_one_process(discover(str(documents)).files, num_partitions=2)
    with zipfile.ZipFile(documents / "more.zip", "w") as archive:
        archive.writestr("a.md", "# A\n")
    assert not fits_one_process(discover(str(documents)).files)
    (documents / "more.zip").unlink()
    for number in range(201):
        (documents / f"{number}.txt").write_text("x")
    assert not fits_one_process(discover(str(documents)).files)


def test_one_large_file_is_not_held_by_one_process(tmp_path):
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    assert not fits_one_process(discover(str(tmp_path)).files)


@pytest.mark.parametrize(
    ("dataset", "needs_ray"),
    [
        ({}, False),
        ({"preprocessing": {"qa_generation": {"enabled": False}}}, False),
        ({"preprocessing": {"qa_generation": {"model": "base_model"}}}, True),
        (
            {"preprocessing": {"qa_generation": {"model": "gpt-4", "endpoint": {"base_url": "http://localhost:1"}}}},
            True,
        ),
        ({"preprocessing": {"qa_generation": {"model": "rules"}, "tokenize": True}}, True),
        ({"synthetic_generation": {"enabled": True, "base_model": "base_model"}}, True),
    ],
    ids=["rules", "texts", "base model", "endpoint", "tokens", "invented"],
)
def test_the_command_line_starts_ray_for_models_and_tokens(documents, tmp_path, dataset, needs_ray):
    base = tmp_path / "base" if needs_ray else None
    config = {"dataset": {"source": {"path": str(documents)}, "path": str(tmp_path / "out"), **dataset}}
    assert check_source(parse_config(config | ({"base_model": str(base)} if base else {}))) is needs_ray


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (BY_RULES, {"num_partitions": 2}),
        (DatasetConfig.model_validate({"preprocessing": {"qa_generation": {"model": "base_model"}}}), {}),
        (
            DatasetConfig.model_validate(
                {
                    "preprocessing": {"qa_generation": {"model": "rules"}},
                    "synthetic_generation": {"enabled": True, "base_model": "base_model"},
                }
            ),
            {},
        ),
    ],
    ids=["several tasks", "a model writes", "a model invents"],
)
def test_a_build_that_needs_ray_says_so(documents, tmp_path, config, options):
    options = BuildOptions(base_model=str(tmp_path / "base"), **options)
    with pytest.raises(ClusterError, match="Ray is not running"):
        build_dataset(str(documents), tmp_path / "out", config, name="a", seed=7, options=options)
    assert not (tmp_path / "out").exists()


def test_many_examples_of_few_documents_stay_in_the_process(documents, tmp_path, monkeypatch):
    monkeypatch.setattr("llamafarm_ray.data.build.harvest._ROWS_PER_BLOCK", 1)
    monkeypatch.setattr("ray.put", lambda _: pytest.fail("rows are handed to Ray"))
    assert build_dataset(str(documents), tmp_path / "out", BY_RULES, name="a", seed=7).num_train > 0
