"""When a verb becomes a job, and what of a job's output is its result."""

import json

import pytest

from llamafarm_ray.cli.jobs import _document, _pass_on, ran_as_job
from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.workflows.jobs.server import job_server_of

RESULT = json.dumps({"path": "/srv/qa", "inner": {"a": 1}}, indent=2) + "\n"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)


def config(address=None):
    return parse_config({"cluster": {"address": address}})


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.1:6379"])
def test_a_clusters_own_address_is_no_job_servers(address):
    assert not ran_as_job("train", config(address))
    with pytest.raises(InputError, match="--no-wait is for jobs"):
        ran_as_job("train", config(address), no_wait=True)


def test_a_dashboards_address_is_a_job_servers_wherever_it_was_written(monkeypatch):
    assert job_server_of(config("https://head:8265/")) == "https://head:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert job_server_of(config()) == "http://head:8265"
    assert job_server_of(config("auto")) is None


def test_a_job_does_not_submit_itself_again(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert job_server_of(config("http://head:8265")) is None


def test_the_result_for_programs_is_told_from_what_else_a_job_prints(capsys):
    _pass_on(f"Running entrypoint\n{{\nno json\n{RESULT}a warning\n")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["path"] == "/srv/qa"
    assert shown.err == "Running entrypoint\n{\nno json\na warning\n"
    assert _document("nothing here\n") == (0, 0)


def test_an_error_for_programs_is_all_that_they_get(capsys):
    error = '{"error": {"code": "invalid_input", "message": "no", "hint": ""}}'
    _pass_on(f"Running entrypoint\n{error}\n")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"{error}\n")
