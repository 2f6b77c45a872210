"""`llamafarm cluster check`: what is dangerous, what will fail, and nothing else."""

import dataclasses
import json

import pytest
from http_server import QuietHandler, http_server
from packaging.version import Version

from llamafarm_ray.clusters.advisories import ADVISORIES, installed_versions, known_problems
from llamafarm_ray.clusters.check import Level, findings, refuse_open_dashboard
from llamafarm_ray.clusters.facts import Dashboard, Node, dashboard_of, this_node
from llamafarm_ray.errors import AccessDeniedError

GIB = 2**30
NODE = Node(
    name="a",
    versions={"python": "3.11.9", "ray": "2.60.0", "torch": "2.13.0", "vllm": "0.32.0"},
    free_bytes={"/tmp": (100 * GIB, 200 * GIB)},  # noqa: S108
    shared_memory_bytes=8 * GIB,
    object_store_bytes=4 * GIB,
    modes={"/home/ann/.ray/auth_token": 0o600},
)


def problems(*nodes, dashboard=None):
    return [(one.level, one.subject, one.what) for one in findings(nodes, dashboard) if one.level is not Level.OK]


def other(**changes):
    return dataclasses.replace(NODE, name="b", **changes)


def test_a_good_cluster_has_every_check_and_no_finding():
    found = findings([NODE, other()], Dashboard("http://10.0.0.1:8265", answers=True, is_open=False, beyond="10.0.0.1"))
    assert {one.level for one in found} == {Level.OK}
    assert [one.subject for one in found] == [
        "dashboard",
        "head",
        "token",
        "vulnerabilities",
        "versions",
        "clock",
        "disk",
        "shared memory",
    ]


@pytest.mark.parametrize(("beyond", "level"), [("10.0.0.1", Level.DANGER), ("", Level.WARNING)])
def test_jobs_without_a_token_are_a_danger_from_other_machines(beyond, level):
    dashboard = Dashboard("http://127.0.0.1:8265", answers=True, is_open=True, beyond=beyond)
    ((found, subject, what),) = problems(NODE, dashboard=dashboard)
    assert (found, subject) == (level, "dashboard")
    assert "http://127.0.0.1:8265 takes jobs" in what


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_a_danger(mode):
    ((level, subject, what),) = problems(other(modes={"/home/ann/.ray/auth_token": mode}))
    assert (level, subject) == (Level.DANGER, "token")
    assert f"/home/ann/.ray/auth_token on b has mode {mode:04o}" in what


@pytest.mark.parametrize(
    ("package", "version", "number"),
    [
        ("ray", "2.51.1", "CVE-2025-62593"),
        ("ray", "2.52.0", None),
        ("vllm", "0.29.0", "CVE-2026-105754"),
        ("vllm", "0.30.0", None),
        ("starlette", "0.38.6", None),
        ("starlette", "0.49.0", "CVE-2025-62727"),
        ("torch", "nobody knows", "CVE-2025-32434"),
        ("numpy", "1.0", None),
    ],
)
def test_versions_are_held_to_the_table(package, version, number):
    assert [one.id for one in known_problems({package: version})] == ([number] if number else [])


def test_what_the_lock_installs_has_none_of_the_table():
    installed = installed_versions()
    assert {"ray", "torch", "transformers", "vllm", "llamafarm_ray"} <= set(installed)
    assert known_problems(installed) == []
    for one in ADVISORIES:
        assert not one.since or Version(one.since) < Version(one.fixed_in)


def test_a_vulnerable_version_is_a_danger_named_once_with_its_nodes():
    old = {**NODE.versions, "vllm": "0.29.0"}
    nodes = [dataclasses.replace(NODE, name=f"n{number}", versions=old) for number in range(5)]
    ((level, _, what),) = problems(*nodes)
    assert level is Level.DANGER
    assert "vllm 0.29.0 on n0, n1, n2 and 2 more has CVE-2026-105754" in what


@pytest.mark.parametrize(("package", "level"), [("ray", Level.DANGER), ("torch", Level.WARNING)])
def test_nodes_that_differ_are_named_with_their_versions(package, level):
    ((found, subject, what),) = problems(NODE, other(versions={**NODE.versions, package: "9.9.9"}))
    assert (found, subject) == (level, "versions")
    assert what == f"{package}: {NODE.versions[package]} on a, 9.9.9 on b"
    without = {name: version for name, version in NODE.versions.items() if name != package}
    assert "none on b" in problems(NODE, other(versions=without))[0][2]


@pytest.mark.parametrize(
    ("skew_s", "error_s", "level"),
    [(300, 0.1, Level.DANGER), (-300, 0.1, Level.DANGER), (20, 0.1, Level.WARNING), (20, 18, None), (2, 0, None)],
)
def test_a_clock_counts_as_wrong_by_more_than_the_question_took(skew_s, error_s, level):
    found = problems(NODE, other(skew_s=skew_s, skew_error_s=error_s))
    assert [one[:2] for one in found] == ([(level, "clock")] if level else [])
    if level:
        assert f"b is {abs(skew_s)} s {'ahead of' if skew_s > 0 else 'behind'} this machine" in found[0][2]


@pytest.mark.parametrize(("free", "level"), [(GIB, Level.DANGER), (5 * GIB, Level.WARNING), (50 * GIB, None)])
def test_disks_that_fill_up_are_named_before_ray_stops(free, level):
    found = problems(other(free_bytes={"/data": (free, 200 * GIB)}))
    assert [one[:2] for one in found] == ([(level, "disk")] if level else [])


def test_an_object_store_without_shared_memory_is_a_warning():
    ((level, subject, _),) = problems(other(shared_memory_bytes=64 * 2**20))
    assert (level, subject) == (Level.WARNING, "shared memory")


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])  # noqa: S104
def job_server(request):
    """A job server that listens on an address; it asks for a token if ``protected``."""

    class Handler(QuietHandler):
        protected = False

        def do_GET(self):
            self.reply(401 if self.protected else 200, json.dumps([]).encode())

    with http_server(Handler, request.param) as url:
        yield Handler, url, request.param


@pytest.mark.parametrize("protected", [True, False])
def test_a_dashboard_is_asked_as_a_stranger_would(job_server, protected, monkeypatch):
    handler, url, bound = job_server
    monkeypatch.setattr("llamafarm_ray.clusters.facts._own_addresses", lambda: ["127.0.0.2"])
    handler.protected = protected
    found = dashboard_of(url)
    assert found.answers
    assert found.is_open is not protected
    assert (found.beyond == "127.0.0.2") is (bound != "127.0.0.1"), "127.0.0.2 stands for an address in a network"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://ray.example.com", "ray.example.com"),
        ("https://ray.example.com/", "ray.example.com"),
        ("http://[2001:db8::1]:8265", "2001:db8::1"),
        ("http://10.0.0.1:8265", "10.0.0.1"),
    ],
)
def test_an_open_dashboard_of_another_machine_is_a_danger_with_and_without_a_port(url, host, monkeypatch):
    monkeypatch.setattr("llamafarm_ray.clusters.facts._status", lambda _: 200)
    found = dashboard_of(url)
    assert (found.is_open, found.beyond) == (True, host)
    assert [one[0] for one in problems(NODE, dashboard=found)] == [Level.DANGER]


def test_a_dashboard_that_was_not_looked_at_is_not_said_to_be_closed():
    (found,) = [one for one in findings([NODE], None) if one.subject == "dashboard"]
    assert (found.level, found.what) == (Level.OK, "none was looked at")
    silent = Dashboard("http://10.0.0.1:8265", answers=False, is_open=False)
    ((level, _, what),) = problems(NODE, dashboard=silent)
    assert level is Level.WARNING
    assert "does not answer from here" in what


@pytest.mark.parametrize(
    ("storage", "said"), [("memory", "in the memory of a alone"), ("redis", "kept by redis"), ("rocksdb", "by rocksdb")]
)
def test_what_is_left_without_the_head_is_said(storage, said):
    (found,) = [
        one for one in findings([dataclasses.replace(NODE, gcs_storage=storage)], None) if one.subject == "head"
    ]
    assert said in found.what


def test_the_heads_environment_says_what_keeps_its_state(monkeypatch):
    monkeypatch.delenv("RAY_REDIS_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_gcs_storage", raising=False)
    assert this_node().gcs_storage == "memory"
    monkeypatch.setenv("RAY_gcs_storage", "rocksdb")
    assert this_node().gcs_storage == "rocksdb"
    monkeypatch.setenv("RAY_REDIS_ADDRESS", "redis:6379")
    assert this_node().gcs_storage == "redis"


def test_a_start_refuses_a_dashboard_that_is_open_to_other_machines(job_server, monkeypatch):
    handler, url, bound = job_server
    monkeypatch.setattr("llamafarm_ray.clusters.facts._own_addresses", lambda: ["127.0.0.2"])
    handler.protected = True
    refuse_open_dashboard(url)
    handler.protected = False
    if bound == "127.0.0.1":
        refuse_open_dashboard(url)  # users of its machine alone reach it
        return
    with pytest.raises(AccessDeniedError, match=r"takes jobs of anybody .* LLAMAFARM_ALLOW_OPEN_DASHBOARD=1"):
        refuse_open_dashboard(url)
    monkeypatch.setenv("LLAMAFARM_ALLOW_OPEN_DASHBOARD", "1")
    refuse_open_dashboard(url)


def test_verbs_and_jobs_ask_before_they_use_a_cluster(monkeypatch):
    from llamafarm_ray.workflows.clusters import cluster
    from llamafarm_ray.workflows.jobs import server as job_server

    asked = []

    def refuse(url):
        asked.append(url)
        raise AccessDeniedError("open")

    monkeypatch.setattr("llamafarm_ray.clusters.check.refuse_open_dashboard", refuse)
    monkeypatch.setattr(job_server, "refuse_open_dashboard", refuse)
    monkeypatch.setattr(cluster, "_join", lambda _: "10.0.0.1:8265")
    monkeypatch.setattr(cluster, "find", lambda: None)
    with pytest.raises(AccessDeniedError), cluster.connect("10.0.0.1:6379"):
        pass
    with pytest.raises(AccessDeniedError):
        job_server.JobServer("https://ray.example.com")
    assert asked == ["http://10.0.0.1:8265", "https://ray.example.com"]


def test_nothing_that_answers_is_said():
    assert dashboard_of("http://127.0.0.1:9").answers is False


def test_this_machine_has_facts(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("LLAMAFARM_HOME", str(tmp_path / "home" / "not" / "yet"))
    (tmp_path / "token").write_text("f" * 64)
    (tmp_path / "token").chmod(0o640)
    here = this_node()
    assert here.modes == {str(tmp_path / "token"): 0o640}
    assert str(tmp_path) in here.free_bytes
    assert all(0 < free <= total for free, total in here.free_bytes.values())
    assert here.versions["ray"].startswith("2.")
