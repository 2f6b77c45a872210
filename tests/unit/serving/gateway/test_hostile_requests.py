"""Whatever a client sends, it gets an OpenAI-shaped error, and nothing of it reaches the engine."""

import asyncio
import json

import pytest
from fake_gateway import Server
from hostile_requests import (
    BODIES,
    CHAT,
    COMPLETIONS,
    ENCODINGS,
    FIELDS,
    FLOODS,
    GOOD,
    HEADERS,
    JSON,
    METHODS,
    NAMES,
    NO_METHODS,
    PATHS,
    PIN,
    PROMPTS,
    ROUTE,
    SAFELISTED_TYPES,
    SPELLINGS,
)

from llamafarm_ray.config import Limits
from llamafarm_ray.errors import InputError
from llamafarm_ray.serving.gateway.validation import check_shape


def serve(server, *messages, method="POST", path=ROUTE, raw_path=None, headers=(JSON,), hang=False):
    """One connection as a server gives it to an ASGI app, past all that an HTTP client would refuse to send.

    Returns:
        the status, the headers and the parsed body of the response.
    """
    incoming, sent = list(messages), []

    async def receive():
        if incoming:
            return incoming.pop(0)
        if hang:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}
    if raw_path is not None:
        scope["raw_path"] = raw_path
    asyncio.run(server.gateway(scope, receive, send))
    start, *rest = sent
    return start["status"], dict(start["headers"]), json.loads(b"".join(message["body"] for message in rest))


def body(data, *, more=False):
    return {"type": "http.request", "body": data, "more_body": more}


def refused(server, answer, status):
    """Whether this is a refusal with that status, in OpenAI's shape, without the prompt; nothing reached the engine."""
    got, headers, parsed = answer
    assert got == status, parsed
    assert headers[b"content-type"] == b"application/json"
    assert set(parsed["error"]) == {"message", "type", "param", "code"}
    assert PIN not in parsed["error"]["message"]
    assert server.engine.seen == []
    return parsed["error"]["message"]


def test_the_good_request_that_the_bad_ones_are_made_from_is_answered():
    server = Server()
    assert serve(server, body(GOOD))[0] == 200
    assert len(server.engine.seen) == 1


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_path_that_is_not_exactly_a_route_is_none(path):
    server = Server()
    message = refused(server, serve(server, body(GOOD), path=path), 404)
    assert len(message) < 300


@pytest.mark.parametrize("raw", SPELLINGS)
def test_a_route_has_one_spelling(raw):
    server = Server()
    refused(server, serve(server, body(GOOD), raw_path=raw), 404)


@pytest.mark.parametrize("method", [*METHODS, *NO_METHODS])
def test_other_methods_do_nothing(method):
    server = Server()
    refused(server, serve(server, body(GOOD), method=method), 404)


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_headers_that_hide_or_pretend_are_refused(headers):
    server = Server()
    refused(server, serve(server, body(GOOD), headers=[JSON, *headers]), 400)


@pytest.mark.parametrize("headers", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_headers_is_refused(headers):
    server = Server()
    refused(server, serve(server, body(GOOD), headers=[JSON, *headers]), 431)


@pytest.mark.parametrize("kind", SAFELISTED_TYPES)
def test_what_a_browser_sends_without_asking_first_is_refused(kind):
    server = Server()
    headers = [] if kind is None else [(b"content-type", kind)]
    refused(server, serve(server, body(GOOD), headers=headers), 415)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_that_would_have_to_be_unpacked_is_refused(encoding):
    server = Server()
    refused(server, serve(server, body(GOOD), headers=[JSON, (b"content-encoding", encoding)]), 415)


def test_a_length_over_the_bound_is_refused_before_anything_is_read():
    server = Server()
    answer = serve(server, headers=[JSON, (b"content-length", b"99999999999")], hang=True)
    assert "over 8388608 bytes" in refused(server, answer, 413)
    assert answer[1][b"connection"] == b"close"


def test_a_body_over_the_bound_is_refused_whatever_its_length_claims():
    server = Server(limits=Limits(max_body_bytes=1024))
    pieces = [body(b" " * 100, more=True)] * 1000
    assert "over 1024 bytes" in refused(server, serve(server, *pieces, hang=True), 413)


def test_a_client_that_never_ends_its_body_is_cut_off():
    server = Server(limits=Limits(body_timeout_s=0.05))
    answer = serve(server, body(GOOD[:10], more=True), hang=True)
    assert "within 0.05 s" in refused(server, answer, 408)


def test_a_client_that_goes_away_in_the_middle_reaches_nothing():
    server = Server()
    refused(server, serve(server, body(GOOD[:10], more=True)), 400)


@pytest.mark.parametrize("data", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_sound_json_object_is_refused(data):
    server = Server()
    message = refused(server, serve(server, body(data)), 400)
    assert message.startswith("The request's body ")
    assert len(message) < 300


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_field_that_is_wrong_is_refused(fields):
    server = Server()
    message = refused(server, serve(server, body(json.dumps({**CHAT, **fields}).encode())), 400)
    assert len(message) < 300


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_that_is_none_is_refused(prompt):
    server = Server()
    data = json.dumps({"model": "bot", "prompt": prompt}).encode()
    refused(server, serve(server, body(data), path=COMPLETIONS), 400)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("source", ["body", "header"])
def test_a_models_name_that_is_none_loads_nothing(name, source):
    server = Server()
    headers = [JSON]
    sent = {**CHAT, "model": name}
    if source == "header":
        headers, sent = [JSON, (b"serve_multiplexed_model_id", name.encode())], CHAT
    got, told, parsed = serve(server, body(json.dumps(sent).encode()), headers=headers)
    assert got in {400, 404}
    assert set(parsed["error"]) == {"message", "type", "param", "code"}
    assert server.models.found == server.engine.seen == []
    assert not any(b"\n" in value or b"\r" in value for pair in told.items() for value in pair)


def test_nothing_of_a_body_is_repeated_in_the_error_that_refuses_it():
    server = Server()
    for data in (b'{"my pin": 4711', b'{"model": "bot", "n": "my pin", "messages": [4711]}', b'{"my pin": NaN}'):
        message = refused(server, serve(server, body(data)), 400)
        assert "pin" not in message
        assert "4711" not in message


def embed(**said):
    check_shape("/v1/embeddings", {"model": "bot", **said})


@pytest.mark.parametrize("given", ["A llama", [5, 17], ["A llama", "a farm"], [[5, 17], [8]]])
def test_texts_and_tokens_have_vectors(given):
    embed(input=given)
    embed(input=given, encoding_format="base64", dimensions=8)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"input": ""},
        {"input": []},
        {"input": [[]]},
        {"input": [5, "A llama"]},
        {"input": [True]},
        {"input": {"role": "user", "content": "A llama"}},
        {"input": [{"role": "user", "content": "A llama"}]},
        {"input": [[{"role": "user", "content": "A llama"}]]},
        {"input": "A llama", "messages": CHAT["messages"]},
        {"input": "A llama", "encoding_format": "bytes"},
    ],
)
def test_what_nobody_could_count_has_none(said):
    with pytest.raises(InputError, match="must be"):
        embed(**said)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a number of 5,000 digits", "it holds a whole number of more than 4300 digits"),
        ("a byte order mark", "Unexpected UTF-8 BOM at line 1, column 1"),
        ("a null byte", "Invalid control character at line 1, column"),
    ],
)
def test_a_body_that_is_no_json_is_told_without_advice_for_programmers(name, told):
    message = refused(Server(), serve(Server(), body(BODIES[name])), 400)
    assert told in message
    assert "sys." not in message
    assert "decode using" not in message


DEEP_TEXT = '{"a":' * 65 + "1" + "}" * 65
CALL = {"id": "1", "type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    "text", [DEEP_TEXT, "[" * 100_000 + "]" * 100_000], ids=["65 levels", "more than Python reads"]
)
def test_json_as_text_that_is_nested_too_deep_is_refused_before_the_engine_parses_it(text):
    call = {**CALL, "function": {"name": "f", "arguments": text}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    for fields in ({"messages": turns}, {"messages": turns[:1], "structured_outputs": {"json": text}}):
        with pytest.raises(InputError, match="nested deeper than 64 levels"):
            check_shape("/v1/chat/completions", {"model": "bot", **fields})


@pytest.mark.parametrize("text", ["{", "{}", '{"a":' * 64 + "1" + "}" * 64, None, 5, {"a": 1}])
def test_json_as_text_is_otherwise_the_engines_to_judge(text):
    call = {**CALL, "function": {"name": "f", "arguments": text}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [call, "odd", {"function": 5}]}]
    check_shape("/v1/chat/completions", {"model": "bot", "messages": turns, "structured_outputs": {"json": text}})
