"""The command that Ray starts as its HAProxy finds the real one."""

import os

from llamafarm_ray.clusters.local_ray import _proxy_environment
from llamafarm_ray.serving import haproxy


def test_the_operators_own_haproxy_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv(haproxy.PATH_VARIABLE, "/opt/haproxy")
    assert _proxy_environment(tmp_path)[haproxy.PATH_VARIABLE] == "/opt/haproxy"


def test_it_does_not_start_itself(monkeypatch):
    monkeypatch.setenv(haproxy.PATH_VARIABLE, str(haproxy.command()))
    started = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append((program, arguments)))
    monkeypatch.setattr("sys.argv", ["llamafarm-haproxy", "-db"])
    haproxy.main()
    [(program, arguments)] = started
    assert program != str(haproxy.command())
    assert arguments[1:] == ["-dS", "-db"]
