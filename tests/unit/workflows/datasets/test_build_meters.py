"""Stages of a dataset's build as metrics."""

from counting_meters import CountingMeters

from llamafarm_ray.data.report import Stage
from llamafarm_ray.workflows.datasets.build_meters import measured


def test_stages_are_told_and_passed_on():
    sink, heard = CountingMeters(), []
    tell = measured("faq", heard.append, sink)
    stages = [Stage("documents", "documents", 3, None), Stage("pairs", "pairs", 2, 9)]
    for stage in stages:
        tell(stage)
    assert heard == stages
    assert sink.gauges == {
        ("llamafarm_dataset_done", "faq", "documents"): 3,
        ("llamafarm_dataset_done", "faq", "pairs"): 2,
        ("llamafarm_dataset_expected", "faq", "pairs"): 9,
    }


def test_without_ray_and_listener_nothing_happens():
    measured("faq", None)(Stage("write", "rows", 1, 1))
