"""A registry's live copy in replicas and routers, when the log can't be read for a while."""

import asyncio

import pytest
from patience import patience
from ray.exceptions import RayTaskError

from llamafarm_ray.registry import DeploymentRecorded, open_registry
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.remote import view as view_module
from llamafarm_ray.registry.remote.view import RegistryView


def record(registry, application):
    recorded = DeploymentRecorded(
        application=application,
        base_model="tiny",
        base_digest="sha256:" + "1" * 64,
        url="http://127.0.0.1:1/v1",
        ray_address="local",
    )
    registry.submit(RecordDeployment(recorded))


@pytest.mark.usefixtures("ray_cluster")
def test_a_view_keeps_what_it_knows_while_the_log_is_unreadable_and_then_catches_up(tmp_path):
    registry = open_registry(str(tmp_path))
    record(registry, "first")

    async def scenario():
        view, seen = RegistryView(registry.home.uri), []
        view.on_change = lambda: seen.append(set(view.state.deployments))
        await view.start()
        assert set(view.state.deployments) == {"first"}
        garbage = tmp_path / "log" / f"{2:020d}.json"
        garbage.write_bytes(b"not a commit")
        with pytest.raises(RayTaskError, match="damaged"):
            await view.refresh()
        assert set(view.state.deployments) == {"first"}
        garbage.unlink()
        record(registry, "second")
        async with asyncio.timeout(patience(20)):
            while len(view.state.deployments) < 2:  # noqa: ASYNC110  (the follower finds it by itself)
                await asyncio.sleep(0.1)
        assert set(view.state.deployments) == {"first", "second"}
        assert seen == [{"first"}, {"first", "second"}]
        await view.stop()

    asyncio.run(scenario())


class Forgetful:
    """A registry actor whose first answers to the follower are lost."""

    def __init__(self, actor):
        self._actor = actor
        self._num_lost = 2
        self.changes_after = self

    def remote(self, sequence, last_key, timeout_s):
        if timeout_s and self._num_lost:
            self._num_lost -= 1
            return asyncio.get_running_loop().create_future()
        return self._actor.changes_after.remote(sequence, last_key, timeout_s)


@pytest.mark.usefixtures("ray_cluster")
def test_an_answer_that_is_lost_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(view_module, "_WATCH_S", 0.1)
    registry = open_registry(str(tmp_path))

    async def scenario():
        view = RegistryView(registry.home.uri)
        view._actor = Forgetful(view._actor)
        monkeypatch.setattr(view, "_find_actor", lambda: None)
        await view.start()
        monkeypatch.setattr(view_module, "_LOST_S", 2)  # read when the follower first runs, at the next await
        record(registry, "first")
        async with asyncio.timeout(patience(20)):
            while not view.state.deployments:  # noqa: ASYNC110  (a view has no event)
                await asyncio.sleep(0.1)
        assert set(view.state.deployments) == {"first"}
        await view.stop()

    asyncio.run(scenario())
