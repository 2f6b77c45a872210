"""Blocks for invented and changed examples: short forms, what they need, what means nothing."""

import pytest

from llamafarm_ray.config import parse_config, resolved
from llamafarm_ray.errors import ConfigError


def test_augmentation_is_a_switch_or_a_section():
    short = parse_config({"dataset": {"augmentation": True}})
    assert short == parse_config({"dataset": {"augmentation": {"enabled": True}}})
    assert short.dataset.augmentation.methods == ("paraphrase", "noise")
    assert parse_config(resolved(short)) == short
    assert not parse_config({"dataset": {"augmentation": False}}).dataset.augmentation.enabled


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ({"augmentation": {"noise_rate": 0.2}}, "dataset.augmentation.noise_rate"),
        ({"augmentation": {"enabled": True, "methods": ["noise", "noise"]}}, "names a method twice"),
        ({"augmentation": {"enabled": True, "languages": ["French"]}}, "does not name back_translation"),
        ({"source": {"type": "synthetic", "path": "seeds.jsonl"}}, "dataset.synthetic_generation.enabled"),
        ({"source": {"type": "conversation_logs"}, "format": "auto_generate_qa"}, "dataset.source.type"),
        ({"preprocessing": {"qa_generation": {"kinds": ["retrieval", "questions"]}}}, "make two datasets"),
        ({"preprocessing": {"qa_generation": {"kinds": ["questions", "questions"]}}}, "names a kind twice"),
        ({"preprocessing": {"qa_generation": {"difficulty": {"extreme": 1}}}}, "difficulty"),
    ],
)
def test_what_does_not_fit_is_named(dataset, told):
    with pytest.raises(ConfigError, match="dataset") as caught:
        parse_config({"dataset": dataset})
    assert told in str(caught.value)
