"""The proxy as it is started here lets go of a request whose client went, and takes no time for it."""

import os
import socket
import subprocess
import threading
import time

import psutil
import pytest

from llamafarm_ray.serving import haproxy
from llamafarm_ray.workflows.cluster import _proxy_environment, free_port

CONFIG = """
defaults
    mode http
    timeout connect 5s
    option abortonclose
    option splice-request
frontend clients
    bind 127.0.0.1:{port}
    default_backend silent
backend silent
    server silent 127.0.0.1:{server}
"""


class Silent:
    """A server that answers nothing and knows which of its clients have gone."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.left = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection):
        with connection:
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass
        self.left.release()


@pytest.fixture
def silent():
    made = Silent()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()


@pytest.fixture
def proxy(silent, tmp_path):
    port, config = free_port(), tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, server=silent.listener.getsockname()[1]))
    command = _proxy_environment(tmp_path)[haproxy.PATH_VARIABLE]
    with subprocess.Popen([command, "-db", "-f", str(config)], stderr=subprocess.DEVNULL) as process:
        process.port = port
        yield process
        process.kill()


def connected(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
    raise AssertionError("HAProxy does not listen")


def test_a_client_that_goes_costs_nothing(proxy, silent):
    num_clients = 4
    for _ in range(num_clients):
        with connected(proxy.port) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            time.sleep(0.1)  # as httpx does: the body is a piece of its own
            client.sendall(b"{}")
            time.sleep(0.1)
    for _ in range(num_clients):
        assert silent.left.acquire(timeout=5), "the server still works for a client that has gone"
    before = psutil.Process(proxy.pid).cpu_times()
    time.sleep(1)
    after = psutil.Process(proxy.pid).cpu_times()
    assert after.user + after.system - before.user - before.system < 0.3


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
