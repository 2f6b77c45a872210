"""The proxy as it is started here: what a client costs that goes, stalls or floods, and what is said to others."""

import asyncio
import contextlib
import functools
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from asgi_server import ChatEngine, listening
from fake_gateway import ANN, CHAT, Server, keyed_state
from patience import patience
from ray.serve._private import haproxy as rays
from ray.serve.config import HTTPOptions

from llamafarm_ray.clusters.local_ray import _proxy_environment, _short_temporary_folder
from llamafarm_ray.clusters.ports import free_port
from llamafarm_ray.serving import haproxy
from llamafarm_ray.serving.application import SERVE_ENV

BUFSIZE = int(SERVE_ENV["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"])

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
    deadline = time.monotonic() + patience(10)
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline, "HAProxy does not listen"
            time.sleep(0.05)


def test_a_client_that_goes_costs_nothing(proxy, silent):
    num_clients = 4
    for _ in range(num_clients):
        with connected(proxy.port) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            time.sleep(0.1)  # as httpx does: the body is a piece of its own
            client.sendall(b"{}")
            time.sleep(0.1)
    for _ in range(num_clients):
        assert silent.left.acquire(timeout=patience(5)), "the server still works for a client that has gone"
    before = psutil.Process(proxy.pid).cpu_times()
    time.sleep(1)
    after = psutil.Process(proxy.pid).cpu_times()
    assert after.user + after.system - before.user - before.system < 0.3


class RaysProxy:
    """Ray Serve's own configuration of its HAProxy, in a folder, and the process that our command makes of it."""

    def __init__(self, folder, monkeypatch, servers=(), routers=(), prefix="/", host="127.0.0.1"):
        monkeypatch.setattr(rays, "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY", True)
        monkeypatch.setattr(rays, "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE", BUFSIZE)
        monkeypatch.setattr(rays, "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_TIMEOUT_S", 1)
        self.port, self.path = free_port(), folder / "haproxy.cfg"
        config = rays.HAProxyConfig(
            socket_path=str(folder / "admin.sock"),
            server_state_base=str(folder),
            server_state_file=str(folder / "state"),
            metrics_socket_path=str(folder / "metrics.sock"),
            metrics_port=free_port(),
            stats_port=free_port(),
            bufsize=BUFSIZE,
            http_health_check_path=None,
            http_options=HTTPOptions(host=host, port=self.port),
        )
        backend = rays.BackendConfig(
            name="app",
            path_prefix=prefix,
            servers=[rays.ServerConfig("replica", "127.0.0.1", port, "replica-id") for port in servers],
            ingress_request_router_servers=[rays.ServerConfig("router", "127.0.0.1", port) for port in routers],
            http_health_check_path=None,
            app_name="app",
        )
        self.api = rays.HAProxyApi(config, {"app": backend}, str(self.path))
        self.api._generate_config_file_internal()
        self.command = _proxy_environment(folder)[haproxy.PATH_VARIABLE]

    def check(self):
        """Whether HAProxy finds the configuration valid, and what the command says."""
        done = subprocess.run([self.command, "-c", "-f", self.path], capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def running(self, headers_timeout_s=10):
        environment = {**os.environ, "LLAMAFARM_HAPROXY_HEADERS_TIMEOUT_S": str(headers_timeout_s)}
        command = [self.command, "-db", "-f", str(self.path)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                connected(self.port).close()
                yield process
            finally:
                process.kill()

    def post(self, **options):
        headers = {"Authorization": f"Bearer {ANN}", **options.pop("headers", {})}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=CHAT, headers=headers, timeout=20, **options)


@pytest.fixture
def rays_proxy(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="lf-", dir=_short_temporary_folder()) as folder:
        yield functools.partial(RaysProxy, Path(folder), monkeypatch)


@pytest.fixture(scope="module")
def gateway():
    with listening(Server(state=keyed_state(), engine=ChatEngine()).gateway) as port:
        yield port


def said_in_openais_shape(response, code):
    error = response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"] == code


@pytest.mark.parametrize("routers", [(), (1,)], ids=["without a router", "with a router"])
def test_rays_configuration_is_amended_once_and_valid(rays_proxy, routers):
    proxy = rays_proxy(servers=[1], routers=routers)
    before = proxy.path.read_text()
    assert ("Ingress request router failed" in before) == bool(routers)
    valid, told = proxy.check()
    assert valid, told
    assert "llamafarm-haproxy" not in told
    after = proxy.path.read_text()
    assert after.count("timeout http-request ") == after.count("tune.http.maxhdr ") == 1
    assert "lf-string" not in after, "Ray's own errors of plain text"
    assert proxy.check()[0]
    assert proxy.path.read_text() == after
    assert [path.name for path in proxy.path.parent.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.parametrize("routers", [(), (1,)], ids=["without a router", "with a router"])
def test_connections_to_a_replicas_machine_that_is_gone_end_within_seconds(rays_proxy, routers):
    proxy = rays_proxy(servers=[1], routers=routers)
    assert proxy.check()[0]
    defaults = proxy.path.read_text(encoding="utf-8").partition("\ndefaults\n")[2].partition("\nfrontend ")[0]
    settings = dict(line.strip().rpartition(" ")[::2] for line in defaults.splitlines() if "tcp" in line)
    assert settings["option"] == "srvtcpka"
    assert int(settings["default-server tcp-ut"].rstrip("s")) < 10
    assert int(settings["srvtcpka-idle"].rstrip("s")) + int(settings["srvtcpka-cnt"]) < 10


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])  # noqa: S104
@pytest.mark.parametrize("routers", [(), (1,)], ids=["without a router", "with a router"])
def test_all_that_listens_does_so_on_the_host_of_requests(rays_proxy, host, routers):
    proxy = rays_proxy(servers=[1], routers=routers, host=host)
    assert proxy.check()[0]
    bound = re.findall(r"^\s+bind (\S+):(\d+)", proxy.path.read_text(), re.MULTILINE)
    assert len(bound) == 3, "requests, metrics and statistics"
    assert {address for address, _ in bound} == {"*" if host == "0.0.0.0" else host}  # noqa: S104


def test_no_socket_of_a_running_proxy_is_open_to_the_network(rays_proxy):
    with rays_proxy().running() as process:
        sockets = [one for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"]
        assert len(sockets) >= 3
        assert {one.laddr.ip for one in sockets} == {"127.0.0.1"}


def test_ray_still_knows_its_haproxy(rays_proxy):
    proxy = rays_proxy()
    with proxy.running() as process:
        assert proxy.api._is_our_haproxy(process.pid)


@pytest.mark.parametrize("config", [CONFIG.format(port=1, server=1), "global\ndefaults\nfrontend mine\n", "\xff"])
def test_another_configuration_is_used_as_it_is(tmp_path, monkeypatch, capsys, config):
    path = tmp_path / "other.cfg"
    path.write_text(config, encoding="latin-1")
    monkeypatch.setattr(os, "execv", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["llamafarm-haproxy", "-db", "-f", str(path)])
    haproxy.main()
    assert path.read_text(encoding="latin-1") == config
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("said", ["", "10s", "-1", "0", "1e3", "²", "99999999"])
def test_a_time_for_headers_that_is_none_is_told_and_serving_goes_on(rays_proxy, monkeypatch, said):
    proxy = rays_proxy()
    monkeypatch.setenv("LLAMAFARM_HAPROXY_HEADERS_TIMEOUT_S", said)
    is_valid, told = proxy.check()
    assert is_valid, told
    assert "timeout http-request 10s" in proxy.path.read_text(encoding="utf-8")
    assert (f"{said!r}, no number of seconds" in told) is bool(said)
    assert [file.name for file in proxy.path.parent.iterdir() if file.name.startswith("tmp")] == []


def test_headers_that_come_byte_by_byte_have_a_time(rays_proxy, gateway):
    proxy = rays_proxy(servers=[gateway])
    with proxy.running(headers_timeout_s=1), connected(proxy.port) as client:
        client.settimeout(0.1)
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        deadline, said = time.monotonic() + patience(10), b""
        while not said:
            assert time.monotonic() < deadline, "the client may go on for ever"
            client.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                said = client.recv(4096)
        assert said.startswith(b"HTTP/1.1 408 ")


def test_bodies_and_idle_connections_may_take_longer_than_headers(rays_proxy, gateway):
    proxy, body, longer_s = rays_proxy(servers=[gateway]), json.dumps(CHAT).encode(), 1.2

    def pieces():
        yield body[:9]
        time.sleep(longer_s)
        yield body[9:]

    with proxy.running(headers_timeout_s=1), httpx.Client(base_url=f"http://127.0.0.1:{proxy.port}") as client:
        headers = {"Authorization": f"Bearer {ANN}", "Content-Type": "application/json"}
        assert client.post("/v1/chat/completions", content=pieces(), headers=headers).status_code == 200
        time.sleep(longer_s)
        assert client.post("/v1/chat/completions", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({f"x-{number}": "1" for number in range(110)}, 200),
        ({f"x-{number}": "1" for number in range(200)}, 431),
        ({"cookie": "c" * 64_000}, 200),
        ({"cookie": "c" * 80 * 1024}, 431),
    ],
    ids=["110", "200", "62 KiB", "80 KiB"],
)
def test_the_gateway_refuses_many_and_long_headers(rays_proxy, gateway, headers, status):
    proxy = rays_proxy(servers=[gateway])
    with proxy.running():
        response = proxy.post(headers=headers)
        assert response.status_code == status
        assert status == 200 or said_in_openais_shape(response, "headers_too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET  / HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * BUFSIZE + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: a\r\n" * 300 + b"\r\n",
    ],
    ids=["malformed", "96 KiB of headers", "300 headers"],
)
def test_what_haproxy_cannot_read_it_refuses_itself(rays_proxy, gateway, sent):
    proxy, said = rays_proxy(servers=[gateway]), b""
    with proxy.running():
        with connected(proxy.port) as client:
            client.sendall(sent)
            while data := client.recv(4096):
                said += data
        assert said.startswith(b"HTTP/1.1 400 ")
        assert proxy.post().status_code == 200


def test_a_stream_is_passed_on_as_it_comes(rays_proxy):
    seen = threading.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        assert await asyncio.to_thread(seen.wait, 10)
        await send({"type": "http.response.body", "body": b"two"})

    with listening(app) as port:
        proxy = rays_proxy(servers=[port])
        with proxy.running(), httpx.stream("GET", f"http://127.0.0.1:{proxy.port}/", timeout=5) as response:
            pieces = response.iter_raw()
            assert next(pieces) == b"one"
            seen.set()
            assert next(pieces) == b"two"


@pytest.mark.parametrize("routers", [(), (1,)], ids=["the replica", "the router"])
def test_who_cannot_be_reached_is_an_error_to_try_again_after(rays_proxy, routers):
    proxy = rays_proxy(servers=[1], routers=routers)
    with proxy.running():
        response = proxy.post()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert said_in_openais_shape(response, "unavailable")
    assert ("x-serve-reason" in response.headers) == bool(routers)


def test_a_replica_that_goes_before_it_answers_is_an_error_in_openais_shape(rays_proxy):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = rays_proxy(servers=[listener.getsockname()[1]])

        def go():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(65536)
                    connection.close()

        threading.Thread(target=go, daemon=True).start()
        with proxy.running():
            response = proxy.post()
        listener.shutdown(socket.SHUT_RDWR)
    assert response.status_code == 502
    assert said_in_openais_shape(response, "unavailable")


def test_a_body_that_the_router_waits_for_in_vain_is_an_error_in_openais_shape(rays_proxy):
    proxy = rays_proxy(servers=[1], routers=[1])
    with proxy.running(), connected(proxy.port) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        said = b""
        while data := client.recv(4096):
            said += data
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


def test_a_path_that_no_application_has_is_an_error_in_openais_shape(rays_proxy):
    proxy = rays_proxy(servers=[1], prefix="/app")
    with proxy.running():
        response = proxy.post()
    assert response.status_code == 404
    assert said_in_openais_shape(response, "not_found")
