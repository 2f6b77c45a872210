"""Chats of odd shapes are answered, or refused with a message, by the gateway and the engines' own app."""

import pytest
from chat_shapes import RAW, SHAPES, body_of
from engines import Parrot, server_of
from fake_gateway import is_openai_error
from tiny_model import CHATML, LLAMA2, make_tiny_tokenizer

TEMPLATES = {"ChatML": CHATML, "Llama 2": LLAMA2}
FAILING = {
    "adds a number": "{{ messages[0]['content'] + 1 }}",
    "asks for a part": "{{ messages[0]['content'].split('###')[7].strip() }}",
    "divides by zero": "{{ 1 // (messages | length - 1) }}",
    "reads what is not there": "{{ messages[0].function.name }}",
    "counts too far": "{% for a in range(999999999) %}{% endfor %}",
    "calls what is no function": "{{ messages[0]['content']() }}",
    "reads JSON": "{{ messages[0]['content'] | tojson | from_json }}",
    "does not parse": "{% for message in messages %}",
    "calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "wants what the sandbox refuses": "{{ messages.__class__.__mro__ }}{{ messages.append(1) }}",
}
FOLDER = "/srv/models/secret-base"


@pytest.fixture(scope="module", params=TEMPLATES)
def server(request):
    return server_named(TEMPLATES[request.param])


def server_named(template):
    tokenizer = make_tiny_tokenizer(template)
    tokenizer.name_or_path = FOLDER
    return server_of(Parrot(), tokenizer)


def check(response):
    assert response.status_code == 200 or (400 <= response.status_code < 500 and is_openai_error(response)), response
    if response.status_code != 200:
        said = response.json()["error"]["message"]
        assert not any(word in said for word in (FOLDER, "Traceback", "site-packages", ".py", "0x")), said
        assert len(said) < 600


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chat_of_any_shape_is_answered_or_refused(server, shape):
    for path in ("/v1/chat/completions", "/tokenize"):
        check(server.post(path, body_of(SHAPES[shape], "bot")))


@pytest.mark.parametrize("shape", RAW)
def test_a_body_of_any_shape_is_answered_or_refused(server, shape):
    check(server.post("/v1/chat/completions", RAW[shape].replace("MODEL", "bot").encode()))


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_fails_refuses_the_chat(template):
    response = server_named(FAILING[template]).post("/v1/chat/completions", body_of(SHAPES["one turn"], "bot"))
    assert response.status_code == 400, response.text
    check(response)
