"""Applications of ours are told from others of the same Serve by what they have in their `user_config`."""

import pytest

from llamafarm_ray.serving.ray_serve import state


class Serve:
    """What Ray's client of a running Serve says of it, in its own shape."""

    def __init__(self, applications):
        self._applications = applications

    def get_serve_details(self):
        return {"applications": self._applications}


def application(route_prefix, *user_configs):
    deployments = {f"d{n}": {"deployment_config": {"user_config": one}} for n, one in enumerate(user_configs)}
    return {"route_prefix": route_prefix, "deployments": deployments}


OURS = {"home": "file:///homes/one", "base_name": "tiny"}


@pytest.fixture
def serve(monkeypatch):
    applications = {
        "ours": application("/", None, {"llamafarm": OURS}),
        "hidden": application(None, {"llamafarm": {"home": "s3://models/two"}}),
        "theirs": application("/theirs", ["a", "list"], "a text", {"theirs": 1}, None),
        "starting": application("/starting"),
        "bare": {"route_prefix": "/bare", "deployments": {"d": {"deployment_config": {}}}},
    }
    monkeypatch.setattr(state, "_get_global_client", lambda **_: Serve(applications))


@pytest.mark.usefixtures("serve")
def test_the_home_is_that_of_our_applications_alone():
    assert state.home_of("ours") == "file:///homes/one"
    assert state.home_of("hidden") == "s3://models/two"
    for name in ("theirs", "starting", "bare", "nobody's"):
        assert state.home_of(name) is None


@pytest.mark.usefixtures("serve")
def test_who_holds_requests_back_knows_our_applications_that_have_a_route():
    assert state.settings_by_route() == {"/": OURS}


def test_nothing_is_found_while_serve_does_not_run(monkeypatch):
    monkeypatch.setattr(state, "_get_global_client", lambda **_: None)
    assert state.home_of("ours") is None
    assert state.settings_by_route() == {}
