"""Serve's proxies start while the application is deployed; where Serve can't start, nothing is."""

import threading

import pytest
from ray import serve

from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.errors import ConflictError
from llamafarm_ray.serving.ray_serve import state
from llamafarm_ray.workflows.clusters.cluster import ClusterInfo
from llamafarm_ray.workflows.deployments.deploy import _last_line, _serve_started

CLUSTER = ClusterInfo("127.0.0.1:1", "", started_here=False)


def test_a_serve_that_can_t_start_is_said_before_anything_is_deployed(monkeypatch):
    def start(**options):
        raise TimeoutError(f"HTTP proxies not available at {options['http_options'].port}")

    monkeypatch.setattr(state, "http_address", lambda: None)
    monkeypatch.setattr(serve, "start", start)
    entered = []
    with pytest.raises(TimeoutError, match="not available"), _serve_started("127.0.0.1", free_port(), CLUSTER):
        entered.append("deployed")
    assert entered == []


def test_the_block_runs_while_the_proxies_start_and_ends_when_they_have(monkeypatch):
    has_controller, has_deployed, ended = threading.Event(), threading.Event(), []

    def start(**_):
        has_controller.set()
        assert has_deployed.wait(30)
        ended.append("proxies")

    monkeypatch.setattr(state, "http_address", lambda: ("127.0.0.1", 1) if has_controller.is_set() else None)
    monkeypatch.setattr(serve, "start", start)
    with _serve_started("127.0.0.1", free_port(), CLUSTER):
        assert ended == []
        has_deployed.set()
    assert ended == ["proxies"]


def test_a_serve_that_listens_elsewhere_is_left_alone(monkeypatch):
    monkeypatch.setattr(state, "http_address", lambda: ("127.0.0.1", 8000))
    monkeypatch.setattr(serve, "start", lambda **_: pytest.fail("started another"))
    with pytest.raises(ConflictError, match="8000"), _serve_started("127.0.0.1", 8001, CLUSTER):
        pytest.fail("deployed")


def test_of_what_haproxy_says_the_reason_is_shown():
    said = """\x1b[36mray::ProxyActor.ready()\x1b[39m (pid=6512, ip=127.0.0.1)
    RuntimeError: HAProxy crashed during startup: [NOTICE]   (6512) : haproxy version is 2.8.25-5cf5d0683
    [NOTICE]   (6512) : path to executable is /bin/haproxy
    [WARNING]  (6512) : config : log format ignored for frontend 'prometheus' since it has no log address.
    [ALERT]    (6512) : Binding [/tmp/haproxy.cfg:62] for frontend http_frontend: cannot bind socket \
(Address already in use) for [127.0.0.1:8000]
    [ALERT]    (6512) : [/bin/haproxy.main()] Some protocols failed to start their listeners! Exiting."""
    reason = _last_line(said, [])
    assert reason.startswith("HAProxy: Binding")
    assert reason.endswith("(Address already in use) for [127.0.0.1:8000]")
