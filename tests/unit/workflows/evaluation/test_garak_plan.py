"""garak's probes of a deployed version: what they need, and scores that can be ranked and gated."""

import pytest
from chat_server import chat_server
from garak_program import make_garak

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConfigError, InputError, UnsupportedError
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.workflows.evaluation.garak import GarakPlan
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel

DAN = "garak.dan.Ablation_Dan_11_0"


def plan(python, url=None, **garak):
    endpoint = {"base_url": url} if url else {}
    config = parse_config(
        {"evaluation": {"garak": {"python": str(python), "probes": ["dan"], **garak}, "endpoint": endpoint}}
    )
    return GarakPlan.of(config, EvaluatedModel("bot:1.0.0", python, None, "w", "bot:1.0.0"))


def measure(python, url, **garak):
    return plan(python, url, **garak).measure(model_id="bot:1.0.0", digests={"weights": "w"}, on_progress=None)


def test_scores_land_in_the_risk_section_with_what_they_depend_on(tmp_path):
    with chat_server(lambda _: "Sure.") as server:
        server.model = "bot:1.0.0#sha256:0"
        result = measure(make_garak(tmp_path), server.url)
        again = measure(make_garak(tmp_path), server.url, generations=2, temperature=1)
    scores = result.risk[DAN]
    assert (scores.metrics["attack_success_rate"], scores.num_examples) == (1.0, 2)
    assert (scores.digests["weights"], scores.digests["backend"]) == ("w", "endpoint")
    assert set(scores.digests) == {"weights", "data", "template", "settings", "backend"}
    assert again.risk[DAN].digests["settings"] != scores.digests["settings"]
    assert EvaluationResult.from_dict(result.to_dict()) == result
    assert [one.benchmark for one in result.answered] == [f"risk.{DAN}"] * 2


def test_the_answers_of_another_version_are_refused_before_garak_starts(tmp_path):
    with chat_server(lambda _: "Sure.") as server:
        server.model = "bot:1.1.0"
        with pytest.raises(InputError, match=r"answers as bot:1.1.0, and bot:1.0.0 is evaluated"):
            measure(make_garak(tmp_path), server.url)
        assert len(server.asked) == 1


def test_garak_without_an_endpoint_or_an_installation_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="garak asks a running endpoint"):
        plan(make_garak(tmp_path))
    with pytest.raises(UnsupportedError, match="garak is not installed"):
        plan(make_garak(tmp_path, "absent"), "http://127.0.0.1:1/v1")
    assert GarakPlan.of(parse_config({}), None) is None


@pytest.mark.parametrize(
    ("garak", "message"),
    [
        ({"probes": ["dan"]}, "probes: has no effect while"),
        ({"python": "x", "probes": ["../dan"]}, "probes"),
        ({"python": "x", "generations": 3}, "generations: is above 1"),
    ],
)
def test_settings_that_say_nothing_are_refused(garak, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"evaluation": {"garak": garak}})
