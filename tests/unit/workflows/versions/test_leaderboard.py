"""Rankings of versions that were measured alike."""

import pytest

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
from llamafarm_ray.workflows.evaluation.results import store_result
from llamafarm_ray.workflows.versions.leaderboard import make_leaderboard

ALIKE = {"data": "d1", "settings": "s1", "template": "t1", "backend": "transformers", "code": "c1"}


@pytest.fixture
def registry(tmp_path):
    made = RegistryService(Location(tmp_path / "home"), principal="ann")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("a", "b", "c"):
        made.register(folder, name=name, kind=ModelKind.ADAPTER)
    return made


def record(registry, name, accuracy, *, benchmark="closed_book", digests=ALIKE, **metrics):
    scores = BenchmarkScores({"accuracy": accuracy, **metrics}, num_examples=40, digests=digests)
    result = EvaluationResult(f"{name}:1.0.0", "2026-01-01T00:00:00Z", {benchmark: scores})
    model = EvaluatedModel(f"{name}:1.0.0", None, None, "w", f"{name}:1.0.0")
    assert store_result(registry, model, result) == f"{name}:1.0.0"


def ranks(board):
    return [[(row.rank, row.ref.partition(":")[0]) for row in ranking.rows] for ranking in board.rankings]


def test_versions_are_ranked_best_first_and_ties_share_a_place(registry):
    for name, accuracy in (("a", 0.5), ("b", 0.7), ("c", 0.5)):
        record(registry, name, accuracy, perplexity=1 / accuracy)
    assert ranks(make_leaderboard(registry)) == [[(1, "b"), (2, "a"), (2, "c")]]
    assert ranks(make_leaderboard(registry, metric="perplexity")) == [[(1, "b"), (2, "a"), (2, "c")]]
    assert ranks(make_leaderboard(registry, ["a", "c:1.0.0"], "closed_book.accuracy")) == [[(1, "a"), (1, "c")]]


@pytest.mark.parametrize("part", sorted(ALIKE))
def test_scores_that_were_measured_otherwise_are_never_in_one_ranking(registry, part):
    record(registry, "a", 0.5)
    record(registry, "b", 0.7, digests={**ALIKE, part: "other"})
    board = make_leaderboard(registry)
    assert [len(rows) for rows in ranks(board)] == [1, 1]
    assert any(part in note for note in board.notes)


def test_other_weights_are_what_a_ranking_is_for(registry):
    record(registry, "a", 0.5, digests={**ALIKE, "weights": "w1"})
    record(registry, "b", 0.7, digests={**ALIKE, "weights": "w2"})
    assert ranks(make_leaderboard(registry)) == [[(1, "b"), (2, "a")]]


def test_scores_of_unknown_origin_are_named_and_not_ranked(registry):
    record(registry, "a", 0.5, digests=None)
    board = make_leaderboard(registry)
    assert board.rankings == []
    assert "a:1.0.0 is not ranked by closed_book" in board.notes[0]


def test_a_later_result_of_another_benchmark_keeps_the_earlier_one(registry):
    record(registry, "a", 0.5)
    record(registry, "a", 0.6, benchmark="retrieved")
    assert [ranking.benchmark for ranking in make_leaderboard(registry).rankings] == ["closed_book", "retrieved"]


def test_what_cant_be_ranked_is_refused_with_what_can(registry):
    record(registry, "a", 0.5, length=3.0)
    with pytest.raises(NotFoundError, match="accurracy"):
        make_leaderboard(registry, metric="accurracy")
    with pytest.raises(InputError, match="length describes"):
        make_leaderboard(registry, metric="length")
    with pytest.raises(NotFoundError, match="nobody"):
        make_leaderboard(registry, ["nobody"])


def test_a_folder_has_no_version_to_record_on(registry, tmp_path):
    result = EvaluationResult("x", "2026-01-01T00:00:00Z", {})
    assert store_result(registry, EvaluatedModel("x", tmp_path, None, "w"), result) is None
