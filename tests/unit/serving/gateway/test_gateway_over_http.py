"""The gateway behind a real HTTP server on loopback: OpenAI's client works, and hostile requests do no harm."""

import contextlib
import json
import socket
import threading

import openai
import pytest
from asgi_server import ChatEngine, listening
from fake_gateway import ANN, BEN, BOT, CHAT, Server, keyed_state

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import Limits
from llamafarm_ray.errors import AccessDeniedError, NotFoundError
from llamafarm_ray.workflows.deployments.chat import ask, stream

GOOD = json.dumps(CHAT).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def served():
    """A gateway without keys, and the address it listens at."""
    server = Server(engine=ChatEngine(), limits=Limits(body_timeout_s=0.3))
    with listening(server.gateway) as port:
        yield server, port


@pytest.fixture
def keyed():
    server = Server(state=keyed_state(), engine=ChatEngine(), limits=Limits(requests_per_minute=5))
    with listening(server.gateway) as port:
        yield f"http://127.0.0.1:{port}/v1"


def test_openais_client_works_streaming_and_not(served):
    url = f"http://127.0.0.1:{served[1]}/v1"
    answer = ask(url, "bot", "How many legs?", max_tokens=3)
    assert (answer.text, answer.model) == ("0 1 2", BOT)
    assert answer.headers["x-llamafarm-model"] == "bot:1.0.0"
    assert "".join(stream(url, "bot", CHAT["messages"], max_tokens=3)) == " 0 1 2"
    client = openai.OpenAI(base_url=url, api_key="none")
    assert client.models.retrieve("bot@production").id == "bot@production"
    with pytest.raises(NotFoundError, match="Did you mean bot"):
        ask(url, "bott", "?")


def test_a_stream_says_its_usage_to_openais_client_only_where_asked(served):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served[1]}/v1", api_key="none")
    options = {"model": "bot", "messages": CHAT["messages"], "max_tokens": 2, "stream": True}
    assert [chunk.usage for chunk in client.chat.completions.create(**options)] == [None, None]
    *_, last = client.chat.completions.create(**options, stream_options={"include_usage": True})
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 2)


def test_openais_client_sees_its_own_errors(keyed):
    def client(key):
        return openai.OpenAI(base_url=keyed, api_key=key, max_retries=0)

    with pytest.raises(openai.AuthenticationError):
        client("nobody").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        client(BEN).chat.completions.create(**CHAT)
    answers = []
    with pytest.raises(openai.RateLimitError) as refused:  # five a minute: one more for each 12 s that they take
        answers.extend(client(ANN).chat.completions.create(**CHAT) for _ in range(100))
    assert len(answers) >= 5
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 12


def test_our_own_client_shows_its_key(keyed):
    assert ask(keyed, "bot", "?", max_tokens=1, key=ANN).text == "0"
    for key in (None, BEN):
        with pytest.raises(AccessDeniedError):
            ask(keyed, "bot", "?", key=key)


def test_chat_shows_the_registrys_token_to_its_own_deployment_only(keyed, monkeypatch, capsys):
    monkeypatch.setenv("LLAMAFARM_TOKEN", ANN)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["models", "chat", "How many legs?", "--url", keyed, "--model", "bot", "--max-tokens", "2"]
    assert run(command) == 2
    assert "The key is not" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", ANN)
    assert run(command) == 0
    assert "0 1" in capsys.readouterr().out


def exchange(port, *pieces, wait_s=2.0):
    """Send bytes as they are; everything that comes back until the server closes or falls silent."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        for piece in pieces:
            connection.sendall(piece)
        with contextlib.suppress(TimeoutError):
            while data := connection.recv(65536):
                said += data
    return said


def statuses(said):
    return [int(line.split()[1]) for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


CLOSE = b"Connection: close\r\n"
RAW = {
    "a length and chunks": HEAD + CLOSE + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + CLOSE + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "a space before a colon": HEAD + CLOSE + b"Content-Length : 5\r\n\r\nhello",
    "a bare line feed in a value": HEAD
    + CLOSE
    + b"X-A: 1\nServe_Multiplexed_Model_Id: tiny\r\nContent-Length: 2\r\n\r\n{}",
    "the gateway's own header": HEAD + CLOSE + b"X-LlamaFarm-Model: x\r\nContent-Length: 2\r\n\r\n{}",
    "the router's header": HEAD + CLOSE + b"Serve-Multiplexed-Model-Id: x\r\nContent-Length: 2\r\n\r\n{}",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "no body": HEAD + CLOSE + b"Content-Length: 0\r\n\r\n",
    "a body cut off": HEAD + CLOSE + b"Content-Length: 9999\r\n\r\n" + GOOD,
    "chunks that never end": HEAD + CLOSE + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod\r\n',
    "a bad chunk": HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a huge length": HEAD + CLOSE + b"Content-Length: 999999999999\r\n\r\n",
    "a percent escape in the path": b"POST /v1/chat%2fcompletions HTTP/1.1\r\nHost: localhost\r\n"
    + CLOSE
    + b"Content-Length: 0\r\n\r\n",
    "an absolute target": b"POST http://x/sleep HTTP/1.1\r\nHost: localhost\r\n" + CLOSE + b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("sent", RAW.values(), ids=RAW)
def test_bytes_that_no_client_would_send_reach_nothing(served, sent):
    server, port = served
    said = exchange(port, sent)
    assert all(400 <= status < 500 for status in statuses(said))
    assert server.engine.seen == []
    assert ask(f"http://127.0.0.1:{port}/v1", "bot", "Are you still there?").text


def test_a_request_hidden_in_anothers_body_is_not_answered(served):
    """Request smuggling, https://portswigger.net/web-security/request-smuggling: one answer, and the line is closed."""
    server, port = served
    hidden = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    said = exchange(port, HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
    assert statuses(said) == [400]
    assert server.engine.seen == []


def test_a_client_that_sends_byte_by_byte_is_answered_only_if_it_is_done_in_time(served):
    server, port = served
    slow = exchange(port, HEAD + f"Content-Length: {len(GOOD)}\r\n\r\n".encode(), GOOD[:5])
    assert statuses(slow) == [408]
    assert b"connection: close" in slow.lower()
    assert server.engine.seen == []
    fast = exchange(port, HEAD + CLOSE + f"Content-Length: {len(GOOD)}\r\n\r\n".encode(), GOOD[:5], GOOD[5:])
    assert statuses(fast) == [200]


def test_a_body_without_an_end_is_cut_off_at_the_bound():
    server = Server(engine=ChatEngine(), limits=Limits(max_body_bytes=2**20))
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with listening(server.gateway) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            connection.sendall(chunk * 1000)
    assert server.engine.seen == []


def test_a_client_that_leaves_while_it_waits_leaves_the_queue():
    server = Server(engine=ChatEngine(seconds=1.0), limits=Limits(running_requests=1))
    whole = HEAD + f"Content-Length: {len(GOOD)}\r\n\r\n".encode() + GOOD
    with listening(server.gateway) as port, socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(whole)
        assert eventually(lambda: server.engine.num_running == 1)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(whole)
            assert eventually(lambda: server.gateway._turns.num_waiting == 1)
        assert eventually(lambda: server.gateway._turns.num_waiting == 0)
        assert server.engine.num_running == 1
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(server.engine.seen) == 1


def eventually(holds, *, seconds=5.0):
    """Whether something becomes so."""
    done = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if holds():
            return True
        done.wait(0.01)
    return False
