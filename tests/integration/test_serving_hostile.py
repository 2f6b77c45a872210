"""Hostile requests against the whole stack, as bytes on a socket: HAProxy or the gate refuses each, vLLM goes on."""

import contextlib
import http.client
import json
import socket

import pytest
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

ROUTERS = {name: headers for name, headers in HEADERS.items() if name.startswith("the router's")}
OTHERS_ON_THE_WIRE = {
    "absolute": "each server has to take it: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2",
    "new line": "is a request line of HTTP/0.9, and a header",
    "a header in a value": "is two headers",
    "a request in a value": "is two requests",
    "a colon in a name": "is a value with a colon",
    "a length that is too long": "is a body that is not there yet: test_serving_operations.py stalls like that",
}
"""What is hostile where an app is given it, and nothing of the kind as bytes."""
NO_HTTP = {
    *("null byte", "overlong", "unicode", "no path", "CONNECT"),
    *("a line feed in a name", "a space in a name", "no name", "a null in a value"),
    *("two lengths", "two lengths in one", "a length and chunks", "two transfer encodings", "a negative length"),
    *("a length with a sign", "a length in hex", "a length in other digits", "two hosts", *FLOODS),
}
"""What a proxy may hang up on without a word, or with its own page, as HAProxy does before any of its settings hold."""
HAPROXYS_PAGE = b"<html><body><h1>400 Bad request</h1>"


def case(data=GOOD, *, method="POST", path=ROUTE, headers=(JSON,)):
    """The bytes of a request; its length is said unless the headers say one."""
    raw_path = path if isinstance(path, bytes) else path.encode()
    lines = [method.encode() + b" " + raw_path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    lines += [name + b": " + value for name, value in headers]
    if not {name.lower() for name, _ in headers} & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(data))
    return b"\r\n".join(lines) + b"\r\n\r\n" + data


def with_fields(**fields):
    return case(json.dumps({**CHAT, **fields}).encode())


GROUPS = {
    "paths": {name: case(path=path) for name, path in PATHS.items()},
    "spellings": {raw.decode(): case(path=raw) for raw in SPELLINGS},
    "methods": {method: case(method=method) for method in METHODS},
    "headers": {name: case(headers=[JSON, *headers]) for name, headers in HEADERS.items() if name not in ROUTERS},
    "floods of headers": {name: case(headers=[JSON, *headers]) for name, headers in FLOODS.items()},
    "types": {repr(kind): case(headers=[] if kind is None else [(b"content-type", kind)]) for kind in SAFELISTED_TYPES},
    "encodings": {kind.decode(): case(headers=[JSON, (b"content-encoding", kind)]) for kind in ENCODINGS},
    "bodies": {name: case(data) for name, data in BODIES.items()},
    "fields": {name: with_fields(**fields) for name, fields in FIELDS.items()},
    "prompts": {
        repr(prompt): case(json.dumps({"model": "bot", "prompt": prompt}).encode(), path=COMPLETIONS)
        for prompt in PROMPTS
    },
    "names": {name: with_fields(model=model) for name, model in NAMES.items()},
}


def answer_to(root, sent):
    """The status, the headers and the body that come back, or nothing where the line is closed without an answer."""
    host, _, port = root.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):  # it may have been refused before all of it was sent
            connection.sendall(sent)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return response.status, response.headers, response.read()
        except (ConnectionError, http.client.BadStatusLine):
            return None


def problem(answer, *, is_http=True):
    """What is wrong with the answer to a hostile request, if anything is."""
    if answer is None:
        return "no answer" if is_http else None
    status, headers, body = answer
    if not 400 <= status < 500:
        return f"status {status}: {body[:200]!r}"
    if PIN.encode() in body:
        return f"the prompt is repeated: {body[:200]!r}"
    if headers.get_content_type() != "application/json":
        is_allowed = not is_http and status == 400 and body.startswith(HAPROXYS_PAGE)
        return None if is_allowed else f"{headers.get_content_type()}: {body[:200]!r}"
    error = json.loads(body)["error"]
    if set(error) != {"message", "type", "param", "code"} or not error["message"] or not error["code"]:
        return f"another shape: {body[:200]!r}"
    return "a long message" if len(error["message"]) > 600 else None


@pytest.mark.parametrize("group", GROUPS)
def test_each_is_an_openai_error_and_a_good_one_is_answered_after_them(served, group):
    wrong = {}
    for name, sent in GROUPS[group].items():
        if name in OTHERS_ON_THE_WIRE:
            continue
        if found := problem(answer_to(served.root, sent), is_http=name not in NO_HTTP):
            wrong[name] = found
    assert wrong == {}
    assert served.complete("bot").status_code == 200


@pytest.mark.parametrize("method", NO_METHODS)
def test_a_method_that_http_does_not_know_is_refused(served, method):
    """Uvicorn's parser refuses it before any app is asked, in words of its own."""
    answer = answer_to(served.root, case(method=method))
    if answer is not None:
        status, _, body = answer
        assert 400 <= status < 500
        assert PIN.encode() not in body
    assert served.complete("bot").status_code == 200


def test_the_routers_header_chooses_nothing_however_it_is_spelt(served):
    asked = json.dumps({"model": "bot:1.0.0", "prompt": "The capital of France", "max_tokens": 1}).encode()
    for spellings in ROUTERS.values():
        claimed = [(name, b"bot:1.1.0") for name, _ in spellings]
        status, headers, _ = answer_to(served.root, case(asked, path=COMPLETIONS, headers=[JSON, *claimed]))
        if status == 200:
            assert headers["x-llamafarm-model"] == "bot:1.0.0"
        else:
            assert 400 <= status < 500
    assert served.complete("bot").status_code == 200
