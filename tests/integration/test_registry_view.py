"""A registry's live copy in replicas and routers, when the log can't be read for a while."""

import asyncio

import pytest
from ray.exceptions import RayTaskError

from llamafarm_ray.registry import DeploymentRecorded, open_registry
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.view import RegistryView


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
        for _ in range(200):  # the follower finds it by itself
            if len(view.state.deployments) == 2:
                break
            await asyncio.sleep(0.1)
        assert set(view.state.deployments) == {"first", "second"}
        assert seen == [{"first"}, {"first", "second"}]
        await view.stop()

    asyncio.run(scenario())
