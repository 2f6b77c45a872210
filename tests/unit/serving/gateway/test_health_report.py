"""Health over HTTP: what the verb finds, for admins alone, and one look for all who ask at once."""

import asyncio
import json

import numpy as np
import pytest
from fake_gateway import ANN, BEN, Server, is_openai_error, keyed_state, models_state, principal
from simulated_requests import drawn_week, write_page

from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.gateway.health_report import HealthReport
from llamafarm_ray.storage import Location

CHANCES = np.linspace(0.1, 0.9, 64)
ROUTE = "/v1/health"
TEAM_ADMIN = "lfr_team"


def week(*, failing=0):
    blocks = drawn_week(np.random.default_rng(1), 1500, signs=CHANCES)
    for block in blocks[len(blocks) - failing :] if failing else ():
        block.num_failed, block.num_answered = 20, 30
    return blocks


@pytest.fixture
def home(tmp_path):
    made = Location(tmp_path / "home")
    write_page(made, {"bot:1.0.0": week(failing=10), "team/bot:1.0.0": week(), "tiny": week()})
    return made


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def server(home, state=None, clock=None):
    made = Server(state=state or models_state(), home="memory://health")
    made.gateway._health = HealthReport(home, lambda: made.models.state, clock or Clock())
    return made


def statuses(response):
    assert response.status_code == 200, response.text
    return {one["version"]: one["status"] for one in response.json()["versions"]}


def test_it_answers_what_the_verb_prints(home):
    from llamafarm_ray.registry import RegistryService
    from llamafarm_ray.serving.health.versions import health_dict
    from llamafarm_ray.workflows.deployments.health import check_health

    asked = server(home)
    found = asked.request("GET", ROUTE)
    assert found.json()["object"] == "health"
    assert statuses(found) == {"bot:1.0.0": "degraded", "team/bot:1.0.0": "stable", "tiny": "stable"}
    (first, *_) = found.json()["versions"]
    printed = [health_dict(one) for one in check_health(RegistryService(home, principal="x"))]
    same = json.loads(json.dumps(printed[0]))
    assert first.pop("aliases") == ["production"]
    assert first == {name: value for name, value in same.items() if name != "aliases"}
    assert asked.engine.seen == []


def test_models_versions_and_aliases_are_chosen_by_the_query(home):
    asked = server(home)
    assert set(statuses(asked.request("GET", f"{ROUTE}?model=bot@production"))) == {"bot:1.0.0"}
    both = asked.request("GET", f"{ROUTE}?model=tiny&model=team/bot")
    assert set(statuses(both)) == {"tiny", "team/bot:1.0.0"}
    for query, status in (("model=bott", 404), ("model=bott@production", 404), ("model=a:b:c", 400), ("x=1", 400)):
        response = asked.request("GET", f"{ROUTE}?{query}")
        assert response.status_code == status, query
        assert is_openai_error(response)


def test_only_an_admin_sees_it_and_only_of_its_namespaces(home):
    state = keyed_state()
    asked = server(home, state)
    assert len(statuses(asked.request("GET", ROUTE, key=ANN))) == 3
    assert asked.request("GET", ROUTE, key=BEN).status_code == 403
    assert asked.request("GET", ROUTE).status_code == 401
    of_team = models_state(principal("tom", TEAM_ADMIN, {"team": Role.ADMIN, "": Role.DEPLOYER}))
    asked = server(home, of_team)
    assert set(statuses(asked.request("GET", ROUTE, key=TEAM_ADMIN))) == {"team/bot:1.0.0"}
    assert asked.request("GET", f"{ROUTE}?model=bot", key=TEAM_ADMIN).status_code == 403
    hint = asked.request("GET", f"{ROUTE}?model=team/tunet@production", key=TEAM_ADMIN)
    assert (hint.status_code, "team/tuned" in hint.text) == (404, False)


def test_requests_within_ten_seconds_share_one_look(home, monkeypatch):
    looks = []
    own = HealthReport._read
    monkeypatch.setattr(HealthReport, "_read", lambda self: looks.append(1) or own(self))
    clock = Clock()
    asked = server(home, clock=clock)

    async def many():
        async with asked.client() as client:
            return await asyncio.gather(*(client.get(ROUTE) for _ in range(5)))

    assert {response.status_code for response in asyncio.run(many())} == {200}
    assert len(looks) == 1
    clock.now = 9.9
    asked.request("GET", ROUTE)
    assert len(looks) == 1
    clock.now = 10.0
    asked.request("GET", ROUTE)
    assert len(looks) == 2


@pytest.mark.parametrize(("method", "path"), [("POST", ROUTE), ("GET", f"{ROUTE}/"), ("GET", "/v1/%68ealth")])
def test_the_route_has_one_spelling(home, method, path):
    assert server(home).request(method, path).status_code == 404
