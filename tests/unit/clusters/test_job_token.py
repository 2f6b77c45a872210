"""A registry token travels to a job encrypted with the cluster's token."""

import json
import os
import secrets

import pytest

from llamafarm_ray.clusters import job_token
from llamafarm_ray.clusters.facts import Dashboard
from llamafarm_ray.errors import AccessDeniedError
from llamafarm_ray.workflows.jobs import server as job_server

TOKEN = "lfr_" + secrets.token_urlsafe(32)


@pytest.fixture
def cluster_token(monkeypatch):
    token = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.setenv("LLAMAFARM_TOKEN", "")
    return token


def start_worker(monkeypatch, made):
    for name, value in made["env_vars"].items():
        monkeypatch.setenv(name, value)
    module, _, function = made["worker_process_setup_hook"].rpartition(".")
    assert module == job_token.__name__
    getattr(job_token, function)()


def test_a_worker_has_the_token_and_its_variables_do_not_show_it(monkeypatch, cluster_token):
    made = job_token.sealed(TOKEN, cluster_token)
    assert TOKEN not in json.dumps(made)
    start_worker(monkeypatch, made)
    assert os.environ["LLAMAFARM_TOKEN"] == TOKEN


def test_a_node_with_another_ray_token_learns_nothing_and_says_so(monkeypatch, cluster_token, capfd):
    made = job_token.sealed(TOKEN, cluster_token)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    start_worker(monkeypatch, made)
    assert os.environ["LLAMAFARM_TOKEN"] == ""
    assert "can't be decrypted with this node's Ray token" in capfd.readouterr().err


def test_a_token_is_not_sent_to_a_job_server_that_asks_nobody_for_one(monkeypatch, cluster_token):
    server = job_server.JobServer.__new__(job_server.JobServer)
    server.address = "http://head:8265"
    monkeypatch.setenv("LLAMAFARM_TOKEN", TOKEN)
    monkeypatch.setattr(job_server, "dashboard_of", lambda url: Dashboard(url, answers=True, is_open=True))
    with pytest.raises(AccessDeniedError, match="to everybody"):
        server._environment()
    monkeypatch.setattr(job_server, "dashboard_of", lambda url: Dashboard(url, answers=True, is_open=False))
    made = server._environment()
    assert TOKEN not in json.dumps(made)
    assert "LLAMAFARM_PRINCIPAL" in made["env_vars"]
    start_worker(monkeypatch, {**made, "env_vars": dict(made["env_vars"])})
    assert cluster_token not in json.dumps(made)


def test_without_a_token_nothing_is_encrypted(monkeypatch, cluster_token):
    server = job_server.JobServer.__new__(job_server.JobServer)
    server.address = "http://nowhere.invalid:1"
    monkeypatch.delenv("LLAMAFARM_TOKEN")
    assert set(server._environment()) == {"env_vars"}
