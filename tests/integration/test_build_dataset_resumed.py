"""A build that was interrupted goes on where it was, to the same dataset."""

import pytest
from chat_server import chat_server
from dataset_builds import assert_same_files, build, by_model, names, rows_of

from llamafarm_ray.data import open_dataset
from llamafarm_ray.data.build import stages


@pytest.mark.parametrize("stage", ["documents", pytest.param("examples", marks=pytest.mark.long), "write"])
def test_a_build_that_is_interrupted_leaves_what_it_goes_on_from_and_then_nothing(
    ray_cluster, corpus, tmp_path, stage, monkeypatch
):
    def interrupt(now):
        if now.name == stage and now.done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "out", progress=interrupt, num_partitions=4)
    assert names(tmp_path) == [".out.unfinished", "corpus"]
    tasks = []
    by_ray = stages._processed_by_ray
    monkeypatch.setattr(
        stages, "_processed_by_ray", lambda some, *args, **options: tasks.extend(some) or by_ray(some, *args, **options)
    )
    resumed = build(corpus, tmp_path / "out", num_partitions=4)
    assert len(tasks) == (3 if stage == "documents" else 0)
    assert names(tmp_path) == ["corpus", "out"]
    build(corpus, tmp_path / "whole")
    assert resumed.digest == open_dataset(tmp_path / "whole").digest
    assert_same_files(tmp_path / "out", tmp_path / "whole")


def test_a_document_that_changed_since_is_read_again(ray_cluster, corpus, tmp_path):
    def interrupt(stage):
        if stage.name == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus, tmp_path / "out", progress=interrupt)
    (corpus / "house-3.md").write_text("# House 3\n\nThe house 3 opens at 4:45.\n")
    build(corpus, tmp_path / "out")
    answers = {row["messages"][1]["content"] for row in rows_of(open_dataset(tmp_path / "out"))}
    assert "The house 3 opens at 4:45." in answers
    assert "A day in house 3 costs 8 euros." not in answers


@pytest.mark.parametrize("answers_are_kept", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_generation_that_is_stopped_half_way_goes_on_and_ends_the_same(
    ray_cluster, corpus, tmp_path, answers_are_kept
):
    faults = ["429", "500", "cut", "garbage", "", "not json"]

    def fault(attempt, body):
        number = sum(map(ord, body["messages"][1]["content"]))
        return faults[number % len(faults)] if attempt == 0 and len(body["messages"]) == 2 else ""

    def interrupt(stage):
        if stage.name == "pairs" and stage.fraction > 0.5:
            raise KeyboardInterrupt

    with chat_server(fault=fault) as server:
        config = by_model(server.url, concurrency=1)  # batches of 4 of 12 passages
        with pytest.raises(KeyboardInterrupt):
            build(corpus, tmp_path / "out", config, cache=str(tmp_path / "cache"), progress=interrupt)
        cache = str(tmp_path / ("cache" if answers_are_kept else "empty"))
        resumed = build(corpus, tmp_path / "out", config, cache=cache, num_partitions=3)
        twice = sum(count > 1 for count in server.answered.values())
        build(corpus, tmp_path / "whole", config, cache=str(tmp_path / "another"))
    assert twice <= (1 if answers_are_kept else 4)  # the one in flight; or those of the batches that were not finished
    assert_same_files(tmp_path / "out", tmp_path / "whole")
    assert resumed.coverage.num_covered == 22
