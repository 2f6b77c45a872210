"""Every private name of Ray that a driver relies on: an upgrade that moves one fails here, with its name."""

import inspect
import os
import sys
from types import SimpleNamespace

from llamafarm_ray.clusters import ray_private
from llamafarm_ray.clusters.ray_private import (
    named_agent_ports,
    on_loopback,
    on_omp_threads,
    raylet_off_stdout,
    take_own_token,
    token_shown,
    workers_started_by,
)


def test_what_raylets_say_to_drivers_is_kept_off_stdout(monkeypatch, capsys):
    from ray._private import worker

    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    said = {"lines": ["8 PYTHON worker processes have been started"], "pid": "raylet", "is_err": False}
    worker.print_worker_logs(said, sys.stdout)
    assert "8 PYTHON worker processes" in capsys.readouterr().out
    with raylet_off_stdout():
        worker.print_worker_logs(said, sys.stdout)
    assert capsys.readouterr().out == ""
    worker.print_worker_logs(said, sys.stdout)
    assert capsys.readouterr().out, "a Ray of somebody else's in this process says what it says"


def test_a_local_ray_listens_on_loopback_and_another_does_not():
    from ray._private import services

    address = services.get_node_ip_address()
    with on_loopback():
        assert ray_private.node_address() == services.get_node_ip_address() == "127.0.0.1"
        assert services.canonicalize_bootstrap_address("127.0.0.1:6379") == "127.0.0.1:6379"
    assert services.get_node_ip_address() == address


def test_the_agents_of_a_ray_that_is_started_get_different_ports():
    from ray._private import parameter

    original = parameter.RayParams
    with named_agent_ports():
        made = parameter.RayParams()
    ports = {made.dashboard_agent_listen_port, made.metrics_agent_port, made.runtime_env_agent_port}
    assert len(ports) == 3
    assert None not in ports
    assert parameter.RayParams is original


def test_workers_of_a_ray_that_is_started_are_started_by_a_script_of_ours(tmp_path):
    from ray._private import node, parameter

    with named_agent_ports(), workers_started_by(tmp_path / "ours.py"):
        made = parameter.RayParams()
    made.update_if_absent(setup_worker_path="rays")
    assert made.setup_worker_path == str(tmp_path / "ours.py")
    assert made.metrics_agent_port is not None
    assert "setup_worker_path" in inspect.getsource(node.Node.start_raylet)


def test_a_number_of_threads_that_ray_sets_is_told(monkeypatch):
    from ray._private import utils

    told = []
    for was_set in (True, False):
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        monkeypatch.setattr(utils, "set_omp_num_threads_if_unset", lambda was_set=was_set: was_set)
        on_omp_threads(told.append)
        assert utils.set_omp_num_threads_if_unset() is was_set
    assert told == [3]


def test_a_token_is_shown_for_the_time_of_a_block(monkeypatch):
    from ray._private.authentication import authentication_token_setup as setup

    assert callable(setup.Config.initialize)
    assert callable(setup.AuthenticationTokenLoader.instance().reset_cache)
    read, forgotten = [], []
    config = SimpleNamespace(initialize=lambda _: read.append(os.environ.get("RAY_AUTH_TOKEN")))
    loader = SimpleNamespace(reset_cache=lambda: forgotten.append(1))
    monkeypatch.setattr(setup, "Config", config)
    monkeypatch.setattr(setup, "AuthenticationTokenLoader", SimpleNamespace(instance=lambda: loader))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with token_shown("of a Ray that stays"):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert read == ["of a Ray that stays", "of the user"]
    assert len(forgotten) == 2
    assert "RAY_AUTH_MODE" not in os.environ


def test_this_users_token_is_taken_without_a_word(monkeypatch, caplog):
    import logging

    from ray._private.authentication import authentication_token_setup as setup

    def found(*, warn_if_disabled):
        assert not warn_if_disabled
        setup.logger.warning("found a token")

    monkeypatch.setattr(setup, "maybe_enable_token_auth_if_token_available", found)
    before = setup.logger.level
    take_own_token()
    assert not caplog.records
    assert setup.logger.level == before
    assert setup.logger.name == ray_private._SETUP
    assert logging.getLogger(ray_private._SETUP) is setup.logger
