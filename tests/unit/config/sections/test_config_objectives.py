import pytest

from llamafarm_ray.config import parse_config, resolved
from llamafarm_ray.errors import ConfigError


@pytest.mark.parametrize("objective", ["dpo", "kto", "contrastive"])
def test_each_objective_has_its_own_settings_and_no_others(objective):
    tuning = parse_config({"fine_tuning": {"objective": objective}}).fine_tuning
    assert tuning.objective_settings is getattr(tuning, objective)
    written = resolved(parse_config({"fine_tuning": {"objective": objective}}))["fine_tuning"]
    assert [name for name in ("dpo", "kto", "contrastive") if written.get(name)] == [objective]


@pytest.mark.parametrize("objective", ["sft", "pretraining"])
def test_objectives_without_settings_have_none(objective):
    assert parse_config({"fine_tuning": {"objective": objective}}).fine_tuning.objective_settings is None


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"dpo": {"beta": 0.2}}, r"fine_tuning\.dpo\.beta: has no effect with fine_tuning\.objective sft"),
        ({"objective": "kto", "dpo": {"beta": 0.2}}, r"fine_tuning\.dpo\.beta: has no effect"),
        (
            {"objective": "dpo", "dpo": {"loss_type": "ipo", "label_smoothing": 0.1}},
            r"fine_tuning\.dpo\.label_smoothing: has no effect with fine_tuning\.dpo\.loss_type ipo",
        ),
        ({"objective": "dpo", "dpo": {"label_smoothing": 0.5}}, r"fine_tuning\.dpo\.label_smoothing"),
        ({"objective": "contrastive", "contrastive": {"pooling": "max"}}, r"fine_tuning\.contrastive\.pooling"),
        ({"objective": "kto", "kto": {"beta": 0}}, r"fine_tuning\.kto\.beta"),
    ],
)
def test_settings_that_mean_nothing_or_are_out_of_range_are_refused(tuning, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"fine_tuning": tuning})
