"""`llamafarm models undeploy`: stop what is deployed, or strike off the record what was lost with its cluster."""

import contextlib

import pytest
from ray import serve

from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.events import DeploymentRecorded
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.deployment import rollout_actor
from llamafarm_ray.serving.ray_serve import state
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.clusters import cluster
from llamafarm_ray.workflows.clusters.cluster import ClusterInfo

UNDEPLOY = ("models", "undeploy")


@pytest.fixture
def deployed(bot, folders, monkeypatch):
    """The command line, with one deployment, and what is done at its cluster."""
    bot.registry = RegistryService(Location(folders / "home"), principal="ann")
    bot.done = []
    bot.reachable, bot.answering = True, False
    bot.serving = {"llamafarm": bot.registry.home.uri, "qwen": bot.registry.home.uri}

    def record(application="llamafarm", ray_address="127.0.0.1:6379"):
        event = DeploymentRecorded(
            application=application,
            base_model="tiny",
            base_digest=Digest.of(b"tiny"),
            url=f"http://{application}:8000/v1",
            ray_address=ray_address,
        )
        bot.registry.submit(RecordDeployment(event))

    @contextlib.contextmanager
    def connect(address, on_start=None):
        if not bot.reachable:
            raise InputError(f"Nothing answers at the Ray address {address}.", hint="Start a cluster.")
        bot.done.append(("connect", address))
        yield ClusterInfo(address, "", started_here=False)

    def delete(application):
        bot.done.append(("delete", application))
        if bot.answering:
            raise TimeoutError

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(serve, "delete", delete)
    monkeypatch.setattr(state, "is_deployed", lambda application: application in bot.serving)
    monkeypatch.setattr(state, "home_of", lambda application: bot.serving[application])
    monkeypatch.setattr(
        rollout_actor, "stop_controller", lambda _, application: bot.done.append(("controller", application))
    )
    bot.record = record
    record()
    return bot


def on_record(deployed):
    return sorted(deployed.registry.refresh().deployments)


def test_it_is_stopped_where_it_runs_and_goes_off_the_record(deployed):
    assert "llamafarm at http://llamafarm:8000/v1 is stopped." in deployed.text(*UNDEPLOY)
    assert deployed.done == [
        ("connect", "127.0.0.1:6379"),
        ("delete", "llamafarm"),
        ("controller", "llamafarm"),
    ]
    assert on_record(deployed) == []
    assert deployed.error(*UNDEPLOY)["message"] == "Nothing is deployed."


def test_of_several_it_is_the_one_that_is_named(deployed):
    deployed.record("qwen", "127.0.0.1:6380")
    assert deployed.json(*UNDEPLOY, "--application", "qwen") == {
        "application": "qwen",
        "url": "http://qwen:8000/v1",
        "state": "stopped",
    }
    assert ("delete", "qwen") in deployed.done
    assert on_record(deployed) == ["llamafarm"]
    error = deployed.error(*UNDEPLOY, "--application", "llamafram")
    assert error["message"] == "There is no deployment 'llamafram'."
    assert "llamafarm" in error["hint"]


def test_answers_that_take_longer_are_said(deployed):
    deployed.answering = True
    assert "ends with its last answers under way" in deployed.text(*UNDEPLOY)
    assert ("controller", "llamafarm") in deployed.done
    assert on_record(deployed) == []


def test_another_registrys_application_of_that_name_is_left_alone(deployed):
    deployed.serving["llamafarm"] = "/another/home"
    error = deployed.error(*UNDEPLOY, "--address", "10.0.0.2:6379")
    assert "serves another registry" in error["message"]
    assert "127.0.0.1:6379" in error["hint"]
    assert deployed.done == [("connect", "10.0.0.2:6379")]
    assert on_record(deployed) == ["llamafarm"]


def test_what_its_cluster_has_no_more_goes_off_the_record(deployed):
    """A cluster that was started anew at the same address, say; at another one nothing can be concluded."""
    deployed.serving.clear()
    error = deployed.error(*UNDEPLOY, "--address", "10.0.0.2:6379")
    assert "has no application llamafarm" in error["message"]
    assert on_record(deployed) == ["llamafarm"]
    assert "is stopped." in deployed.text(*UNDEPLOY)
    assert on_record(deployed) == []
    assert [what for what, _ in deployed.done] == ["connect", "connect"]


def test_a_cluster_known_by_another_address_is_the_same(deployed):
    assert "is stopped." in deployed.text(*UNDEPLOY, "--address", "10.0.0.2:6379")
    assert on_record(deployed) == []


def test_a_cluster_that_was_lost_is_said_and_can_be_forgotten(deployed):
    deployed.reachable = False
    error = deployed.error(*UNDEPLOY)
    assert "Nothing answers" in error["message"]
    assert "--forget" in error["hint"]
    assert "--forget" not in deployed.error(*UNDEPLOY, "--address", "127.0.0.1:6380")["hint"]
    assert on_record(deployed) == ["llamafarm"]
    assert "llamafarm at http://llamafarm:8000/v1 is off the record." in deployed.text(*UNDEPLOY, "--forget")
    assert on_record(deployed) == []
    assert deployed.done == []


def test_who_may_not_deploy_stops_nothing(deployed, monkeypatch):
    root = RegistryService(deployed.registry.home, token=deployed.registry.add_principal("root", {"*": Role.ADMIN}))
    monkeypatch.setenv("LLAMAFARM_TOKEN", root.add_principal("eve", {"*": Role.VIEWER}))
    for options in ((), ("--forget",)):
        assert deployed.error(*UNDEPLOY, *options)["code"] == "access_denied"
    assert deployed.done == []
    assert "llamafarm" in root.refresh().deployments
