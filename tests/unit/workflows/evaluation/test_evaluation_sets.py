"""Registered evaluation sets: stored in the home, named by reference, and never changed by what happens to the file."""

import datetime as dt
import json
import shutil

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError, IntegrityError, NotFoundError
from llamafarm_ray.evaluation.custom.description import find_sets
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry import DatasetRegistered, RegistryService, lineage
from llamafarm_ray.registry.commands import RegisterDataset
from llamafarm_ray.registry.gc import collect
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest, ModelKind
from llamafarm_ray.workflows.datasets.registered import list_datasets, locate, show_dataset
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
from llamafarm_ray.workflows.evaluation.questions import exam_of_files
from llamafarm_ray.workflows.evaluation.register_set import register_set
from llamafarm_ray.workflows.evaluation.results import store_result
from llamafarm_ray.workflows.evaluation.stored_sets import StoredSets, open_set

ROWS = [{"question": "When was the mill built?", "answers": ["1832"]}, {"question": "Wer? é", "answers": ["Ann"]}]
SCORER = "def score(answer, row):\n    return float(len(answer))\n"


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann", cache=tmp_path / "cache")


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mill.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


@pytest.fixture
def described(tmp_path, questions):
    (tmp_path / "judge.py").write_text(SCORER, encoding="utf-8")
    path = tmp_path / "lengths.yaml"
    path.write_text(f"questions: {questions.name}\nscorer: judge.py:score\nmust_pass: true\n", encoding="utf-8")
    return path


def config(**evaluation):
    return parse_config({"evaluation": evaluation})


def asked(registry, **evaluation):
    given = config(**evaluation)
    exam = exam_of_files(StoredSets.find(given, registry).applied(given))
    return [one.question.question for one in exam.asked]


def test_equal_rows_have_one_digest_in_any_form_of_file(registry, questions, tmp_path):
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([dict(reversed(row.items())) for row in ROWS], indent=2), encoding="utf-8")
    one, other = (register_set(registry, path, name="mill") for path in (questions, listed))
    assert (one.digest, one.num_validation, one.num_train) == (other.digest, 2, 0)
    questions.write_text(json.dumps(ROWS[0]), encoding="utf-8")
    assert register_set(registry, questions).digest != one.digest


def test_a_reference_gives_the_rows_that_were_registered_whatever_becomes_of_the_file(registry, questions):
    first = register_set(registry, questions)
    questions.write_text(json.dumps(ROWS[1]), encoding="utf-8")
    register_set(registry, questions)
    questions.unlink()
    assert asked(registry, questions="mill") == [ROWS[1]["question"]]
    assert asked(registry, questions=f"mill@{first.digest[7:19]}") == [row["question"] for row in ROWS]
    with pytest.raises(NotFoundError, match=r"no file and no evaluation set 'mil'") as raised:
        asked(registry, questions="mil")
    assert "mill" in raised.value.hint


def test_a_custom_evaluation_is_stored_with_its_scorer(registry, described, tmp_path):
    stored = register_set(registry, described)
    for path in (described, tmp_path / "judge.py", tmp_path / "mill.jsonl"):
        path.unlink()
    given = config(custom_evaluations=["lengths"])
    (found,) = find_sets(["lengths"], files=StoredSets.find(given, registry).custom_files)
    assert (found.name, found.must_pass, found.scorer.code) == ("lengths", True, SCORER)
    assert [one.prompt for one in found.questions] == [row["question"] for row in ROWS]
    assert asked(registry, questions="lengths") == [row["question"] for row in ROWS], "it has questions too"
    described.write_text("questions: m.jsonl\nscorer: package.module:score\n", encoding="utf-8")
    (tmp_path / "m.jsonl").write_text(json.dumps(ROWS[0]), encoding="utf-8")
    with pytest.raises(InputError, match="in a module, which can't be stored"):
        register_set(registry, described)
    assert show_dataset(registry, "lengths")[0].digest == stored.digest


def test_a_benchmarks_data_is_stored_by_split_and_other_files_stay_out(registry, tmp_path):
    data = tmp_path / "mmlu"
    (data / "anatomy").mkdir(parents=True)
    (data / "anatomy" / "test.jsonl").write_text('{"question": "a"}\n{"question": "b"}\n', encoding="utf-8")
    (data / "notes.md").write_text("mine", encoding="utf-8")
    assert register_set(registry, data).num_validation == 2
    shutil.rmtree(data)
    given = config(benchmarks=["mmlu_anatomy"], benchmark_data="mmlu")
    folder = StoredSets.find(given, registry).benchmarks.data
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")] == ["anatomy/test.jsonl"]
    with pytest.raises(InputError, match=r"benchmark's data and has no questions"):
        asked(registry, questions="mmlu")


def test_bad_rows_are_refused_before_anything_is_stored(registry, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "When?"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 1 has no answers"):
        register_set(registry, bad)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("{oops\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"test\.jsonl"):
        register_set(registry, tmp_path / "data")
    assert not list_datasets(registry)
    assert not list(registry.content.stored())


def test_sets_for_training_and_for_evaluation_are_not_confused(registry, questions):
    register_set(registry, questions)
    trained = DatasetRegistered(name="qa", digest=Digest.of(b"qa"), num_train=3, num_validation=1)
    registry.submit(RegisterDataset(trained))
    with pytest.raises(InputError, match="qa is a dataset for training"):
        open_set(registry, "qa")
    with pytest.raises(InputError, match="mill is an evaluation set"):
        locate(registry, "mill")


def test_a_result_names_its_set_and_lineage_leads_to_it(registry, questions, tmp_path):
    stored = register_set(registry, questions)
    reference = f"mill@{stored.digest}"
    given = config(questions="mill")
    scores = BenchmarkScores({"accuracy": 0.5})
    result = EvaluationResult("bot", "t", {"closed_book": scores, "general_text": scores})
    noted = StoredSets.find(given, registry).note(result, {}, set())
    assert {name: one.dataset for name, one in noted.benchmarks.items()} == {
        "closed_book": reference,
        "general_text": None,
    }
    assert EvaluationResult.from_dict(json.loads(json.dumps(noted.to_dict()))) == noted
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    registry.register(folder, name="bot", kind=ModelKind.ADAPTER)
    store_result(registry, EvaluatedModel("bot:1.0.0", folder, None, "w", "bot:1.0.0"), noted)
    assert show_dataset(registry, "mill")[0].evaluated == ("bot:1.0.0",)
    edges = lineage.trace(registry.refresh(), "bot:1.0.0", "down").edges
    assert [(edge.relation, edge.target) for edge in edges] == [("was evaluated on", f"dataset:{reference}")]
    graph = lineage.trace_dataset(registry.state, "mill", "up")
    assert "bot:1.0.0" in {node.label for node in graph.nodes}


def test_collected_garbage_holds_no_evaluation_set_and_verify_sees_a_damaged_one(registry, questions):
    stored = register_set(registry, questions)
    collect(registry, grace=dt.timedelta(0), dry_run=False)
    assert verify(registry.home).problems == ()
    assert open_set(registry, "mill").questions.is_file()
    (entry,) = registry.content.manifest(Digest(stored.manifest)).files
    registry.home.remove(registry.content.blobs.name(entry.digest))
    assert any("dataset mill@" in problem for problem in verify(registry.home).problems)


def test_a_set_can_only_be_registered_with_stored_files(registry):
    forged = DatasetRegistered(
        name="x", digest=Digest.of(b"x"), num_train=0, num_validation=1, manifest=Digest.of(b"x")
    )
    with pytest.raises((InputError, IntegrityError), match="x can't get an evaluation set"):
        registry.submit(RegisterDataset(forged))


def test_a_folder_is_not_taken_for_the_version_that_it_is_called_like(tmp_path):
    version = EvaluatedModel("pet:1.0.0", tmp_path, None, "w", "pet:1.0.0")
    folder = EvaluatedModel("pet:1.0.0", tmp_path, None, "w")
    assert version.name_as_baseline == "pet:1.0.0"
    assert folder.name_as_baseline == "pet 1.0.0"
