"""Users' ratings of the versions that answered a simulation."""

import datetime as dt
import json

import pytest

from llamafarm_ray.evaluation.load.outcomes import Outcome, summarize
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.types import FEEDBACK_FOLDER
from llamafarm_ray.workflows.deployments.simulate import satisfaction

NOW = dt.datetime.now(dt.UTC)


def said(version, time=NOW, **what):
    return json.dumps({"version": version, "time": time.isoformat(), **what})


def summary(*models):
    answers = [Outcome(number, 0, 0, 0.1, 0.2, 3, model=model) for number, model in enumerate(models)]
    return summarize(answers, num_sessions=len(answers))


@pytest.fixture
def registry(tmp_path):
    home = Location(tmp_path)
    lines = [
        said("bot:1.0.0", rating=0.75),
        said("bot:1.0.0", thumb="up"),
        said("bot:1.0.0", correction="better"),
        said("bot:1.1.0", thumb="down"),
        said("bot:1.0.0", time=NOW - dt.timedelta(days=40), thumb="down"),
        "garbage",
    ]
    home.create(f"{FEEDBACK_FOLDER}/{NOW:%Y/%m/%d}/a.jsonl", "\n".join(lines).encode())
    return RegistryService(home)


def test_ratings_of_the_versions_that_answered_are_on_the_scale_from_1_to_5(registry):
    found = satisfaction(registry, summary("bot:1.0.0#abc", "bot:1.0.0#abc"))
    assert (found.mean, found.num_ratings) == (1 + 4 * 0.875, 2)


@pytest.mark.parametrize("model", ["base", "bot:2.0.0#abc", ""])
def test_without_ratings_there_is_no_satisfaction(registry, model):
    assert satisfaction(registry, summary(model)) is None
