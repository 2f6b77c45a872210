"""Errors of the gateway and of the engines behind it have OpenAI's type, code and param, and no value of a request."""

import json

import pytest
from fake_gateway import ANN, BEN, BOT, CHAT, Engine, Server, event, keyed_state, whole

from llamafarm_ray.config import Limits
from llamafarm_ray.errors import IntegrityError, StorageError

COMPLETE = {"model": "bot", "prompt": "A llama"}
PIN = "xyzzy"


def told(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["type"], error["code"], error["param"]


def refused(path, body, **options):
    return told(Server(**options).post(path, body))


@pytest.mark.parametrize(
    ("key", "model", "expected"),
    [
        (None, "bot", (401, "authentication_error", "invalid_api_key", None)),
        ("lfr_wrong", "bot", (401, "authentication_error", "invalid_api_key", None)),
        (BEN, "bot", (403, "permission_error", "access_denied", None)),
        (ANN, "nope", (404, "invalid_request_error", "model_not_found", "model")),
        (ANN, "bot:9.9.9", (404, "invalid_request_error", "model_not_found", "model")),
        (ANN, "bot@nowhere", (404, "invalid_request_error", "model_not_found", "model")),
        (ANN, "a b", (400, "invalid_request_error", "invalid_input", "model")),
    ],
)
def test_clients_can_tell_a_wrong_key_from_a_wrong_model(key, model, expected):
    server = Server(state=keyed_state())
    assert told(server.post("/v1/chat/completions", {**CHAT, "model": model}, key=key)) == expected


def test_a_models_card_that_is_not_there_is_a_model_that_is_not_found():
    response = Server().request("GET", "/v1/models/nope")
    assert told(response) == (404, "invalid_request_error", "model_not_found", "model")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"stream": 1}, "stream"),
        ({"model": ""}, "model"),
        ({"stream_options": []}, "stream_options"),
        ({"priority": 1}, "priority"),
        ({"messages": []}, "messages"),
        ({"messages": [PIN]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": [PIN]}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [[PIN]]}]}, "messages[0].content[0]"),
        ({"structured_outputs": {"json": "[" * 99 + "]" * 99}}, "structured_outputs"),
    ],
)
def test_a_field_that_is_wrong_is_named_and_not_repeated(fields, param):
    server = Server()
    response = server.post("/v1/chat/completions", {**CHAT, **fields})
    assert told(response) == (400, "invalid_request_error", "invalid_input", param)
    assert PIN not in response.text
    assert server.engine.seen == []


@pytest.mark.parametrize("prompt", [[PIN, 5], [5, PIN], [], [[]], [[PIN]], {"a": PIN}, None, [True]])
def test_a_prompt_of_mixed_kinds_is_refused_without_its_words(prompt):
    response = Server().post("/v1/completions", {**COMPLETE, "prompt": prompt})
    assert told(response) == (400, "invalid_request_error", "invalid_input", "prompt")
    assert PIN not in response.text


@pytest.mark.parametrize(
    ("path", "body", "param"), [("/v1/completions", COMPLETE, "prompt"), ("/v1/chat/completions", CHAT, "messages")]
)
def test_a_prompt_that_is_too_long_has_openais_code(path, body, param):
    expected = (400, "invalid_request_error", "context_length_exceeded", param)
    assert refused(path, body, limits=Limits(max_prompt_tokens=1)) == expected


def test_more_than_a_limit_has_the_type_that_clients_wait_for():
    server = Server(limits=Limits(requests_per_minute=1))
    assert server.post("/v1/completions", COMPLETE).status_code == 200
    assert told(server.post("/v1/completions", COMPLETE)) == (429, "rate_limit_error", "rate_limit_exceeded", None)


VALIDATION = (
    "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.prompt', 'msg': 'Input should be a valid string', "
    f"'input': ['{PIN}']}}\n  "
    f"{{'type': 'int_type', 'loc': 'body.top_k', 'msg': \"Input isn't a number\", 'input': '{PIN}'}}"
)


class Broken(Engine):
    """Answers with an error as vLLM writes it."""

    def __init__(self, status, error):
        super().__init__()
        self._status, self._error = status, error

    async def _work(self, path, body, send):  # noqa: ARG002
        async def with_status(message):
            await send({**message, "status": self._status} if message["type"] == "http.response.start" else message)

        if body.get("stream"):
            await whole_stream(send, self._error)
        else:
            await whole(with_status, {"error": self._error})


async def whole_stream(send, error):
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    await send(start)
    await event(send, {"choices": []})
    await event(send, {"error": error})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


VLLM = [
    (400, "BadRequestError", "top_k must be -1, 0 or more", "top_k", "invalid_request_error", "invalid_input"),
    (400, "BadRequestError", "This model's maximum context length is 8 tokens.", "input_text", "invalid_request_error",
     "context_length_exceeded"),
    (404, "NotFoundError", "The model `x` does not exist.", None, "invalid_request_error", "model_not_found"),
    (500, "InternalServerError", "EngineCore failed", None, "server_error", "engine_error"),
    (503, "ServiceUnavailableError", "Busy", None, "server_error", "unavailable"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind", "message", "param", "type_", "code"), VLLM)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_error_has_the_gateways_shape(status, kind, message, param, type_, code, stream):
    engine = Broken(status, {"message": message, "type": kind, "param": param, "code": status})
    response = Server(engine=engine).post("/v1/completions", {**COMPLETE, "stream": stream})
    if stream:
        error = json.loads(response.text.split("\n\n")[1].removeprefix("data: "))["error"]
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        error = response.json()["error"]
        assert response.status_code == status
        assert response.headers["content-length"] == str(len(response.content))
    assert error == {"message": message, "type": type_, "param": param, "code": code}
    assert response.headers["x-llamafarm-model"] == "bot:1.0.0"


def test_an_engines_message_about_fields_has_their_names_and_not_what_was_in_them():
    engine = Broken(400, {"message": VALIDATION, "type": "Bad Request", "param": "body.prompt", "code": 400})
    response = Server(engine=engine).post("/v1/completions", COMPLETE)
    assert response.json()["error"]["message"] == (
        "The request can't be read: prompt: Input should be a valid string; top_k: Input isn't a number."
    )
    assert (response.json()["error"]["param"], PIN in response.text) == ("prompt", False)


def test_what_is_no_error_in_json_is_passed_on():
    class Plain(Engine):
        async def _work(self, path, body, send):  # noqa: ARG002
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"Internal ", "more_body": True})
            await send({"type": "http.response.body", "body": b"Server Error"})

    response = Server(engine=Plain()).post("/v1/completions", COMPLETE)
    assert (response.status_code, response.text) == (500, "Internal Server Error")


@pytest.mark.parametrize(
    "problem",
    [
        OSError(30, "Read-only file system", "/srv/home/cache/locks/ab.use"),
        StorageError("/srv/home/blobs can't be read: Permission denied."),
        IntegrityError("/srv/home/blobs/ab is not what its digest says."),
    ],
)
def test_a_version_whose_files_cant_be_had_is_unavailable_and_names_no_path(problem, caplog, monkeypatch):
    server = Server()

    def use(_):
        raise problem

    monkeypatch.setattr(server.models, "use", use)
    response = server.post("/v1/completions", COMPLETE)
    assert told(response) == (503, "server_error", "deployment_error", None)
    assert "bot:1.0.0 can't be loaded at the moment" in response.text
    assert "/srv" not in response.text
    assert "/srv" in caplog.text


SAID = {"model": BOT, "messages": CHAT["messages"], "answer": "A plant.", "thumb": "down"}


def test_feedback_that_cant_be_kept_names_no_path(monkeypatch):
    server = Server()

    async def add(_):
        raise StorageError("/srv/home/feedback can't be written: Read-only file system.")

    monkeypatch.setattr(server.feedback, "add", add)
    response = server.post("/v1/feedback", SAID)
    assert (response.status_code, "/srv" in response.text) == (500, False)
