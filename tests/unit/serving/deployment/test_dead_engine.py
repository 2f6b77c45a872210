"""A replica whose engine has died ends at once: requests go elsewhere, or wait, and none fails for want of it."""

import asyncio
import logging
import os
import sys
from types import SimpleNamespace

import pytest
import virtual_time

from llamafarm_ray import serving
from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.serving.deployment import vllm_replica
from llamafarm_ray.serving.deployment.engine_replica import EngineReplica
from llamafarm_ray.serving.deployment.replica import Replica
from llamafarm_ray.serving.deployment.vllm_replica import VllmReplica


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


@pytest.mark.usefixtures("ended")
def test_a_replica_of_vllm_ends_with_its_engine(monkeypatch, tmp_path):
    is_dead, nothing = [], lambda *_, **__: asyncio.sleep(0)
    adapters = SimpleNamespace(is_engine_dead=lambda: bool(is_dead), watch=lambda: None, dtype="float32")
    versions = SimpleNamespace(follow=nothing, preload=nothing, prove_against=lambda _: None)
    engine = SimpleNamespace(server=lambda _: SimpleNamespace(start=nothing))
    monkeypatch.setattr(vllm_replica, "VllmAdapters", lambda _: adapters)
    monkeypatch.setattr(vllm_replica, "AdapterManager", lambda *_: versions)
    monkeypatch.setattr(vllm_replica, "base_folder", lambda *_: asyncio.sleep(0, tmp_path))
    monkeypatch.setattr(vllm_replica.serve, "get_replica_context", lambda: SimpleNamespace(app_name="llamafarm"))
    monkeypatch.setattr(vllm_replica.ray, "get_runtime_context", lambda: SimpleNamespace(get_temp_dir=lambda: "ray"))
    monkeypatch.setattr(vllm_replica, "keep_sockets_in", lambda _: None)
    monkeypatch.setattr(Replica, "__init__", lambda self, *parts: setattr(self, "_versions", parts[1]))
    monkeypatch.setitem(sys.modules, "llamafarm_ray.serving.engines.vllm.ray_llm", engine)
    monkeypatch.setattr(serving, "ray_llm", engine, raising=False)
    config = {
        "engine_kwargs": {},
        "accelerator_config": {"kind": "gpu"},
        "model_loading_config": {"model_id": "x", "model_source": "x"},
    }

    async def scenario():
        replica = VllmReplica.__new__(VllmReplica)
        await replica.__init__(config, served=None, num_cpus=1)
        await asyncio.sleep(3600)
        is_dead.append(True)
        with pytest.raises(Ended):
            await asyncio.wait_for(replica._watching, 0.2)

    virtual_time.run(scenario())


@pytest.mark.parametrize("fails", [True, False])
def test_an_engine_in_the_replicas_process_says_so_by_its_health(fails):
    class Engine:
        def check_health(self):
            if fails:
                raise DeploymentError("The engine's thread has ended.")

    replica = EngineReplica.__new__(EngineReplica)
    replica._engine = Engine()
    assert replica._is_dead() is fails
