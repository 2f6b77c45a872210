"""A replica whose engine has died ends at once: requests go elsewhere, or wait, and none fails for want of it."""

import asyncio
import logging
import os

import pytest
import virtual_time

from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.serving.engines.replica import EngineReplica
from llamafarm_ray.serving.replica import Replica


class Ended(BaseException):
    """In place of the process's end."""


@pytest.fixture
def ended(monkeypatch):
    def end(status):
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(logging, "shutdown", lambda: None)


@pytest.mark.usefixtures("ended")
def test_it_ends_within_a_moment_and_not_before(caplog):
    async def scenario():
        replica, is_dead = Replica.__new__(Replica), []
        replica.end_with_engine(lambda: bool(is_dead))
        await asyncio.sleep(3600)
        assert not replica._watching.done()
        is_dead.append(True)
        with pytest.raises(Ended):
            await asyncio.wait_for(replica._watching, 0.2)

    virtual_time.run(scenario())
    assert "The engine has died" in caplog.text


@pytest.mark.parametrize("fails", [True, False])
def test_an_engine_in_the_replicas_process_says_so_by_its_health(fails):
    class Engine:
        def check_health(self):
            if fails:
                raise DeploymentError("The engine's thread has ended.")

    replica = EngineReplica.__new__(EngineReplica)
    replica._engine = Engine()
    assert replica._is_dead() is fails
