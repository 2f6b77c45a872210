"""OpenAI's routes over any engine, behind the gateway: asked as clients ask, with OpenAI's own client too."""

import asyncio
import json
import logging
import re

import httpx
import openai
import pytest
from engines import WORDS, Failing, Lengths, Parrot, engine_of, server_of
from fake_gateway import ANN, BEN, BOT, CHAT, is_openai_error, keyed_state
from patience import patience
from tiny_model import LLAMA2, make_tiny_tokenizer

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.engines.app import ROUTES, EngineApp
from llamafarm_ray.serving.gateway.gateway import MODEL_ROUTES

COMPLETION = {"model": "bot", "prompt": WORDS, "max_tokens": 4}


CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "content": "rain", "tool_call_id": "1"}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


@pytest.fixture
def parrot():
    return Parrot()


@pytest.fixture
def server(parrot, tokenizer):
    return server_of(parrot, tokenizer)


def say(tokenizer, num_tokens):
    return tokenizer.decode(tokenizer(WORDS).input_ids[:num_tokens])


def events(response):
    *parsed, last = [line.removeprefix("data: ") for line in response.text.strip().split("\n\n")]
    assert last == "[DONE]"
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(one) for one in parsed]


def test_a_completion(server, tokenizer):
    response = server.post("/v1/completions", COMPLETION)
    body = response.json()
    assert body["choices"] == [
        {"index": 0, "text": say(tokenizer, 4), "logprobs": None, "finish_reason": "length"},
    ]
    assert body["model"] == BOT
    assert body["object"] == "text_completion"
    assert body["id"] == f"cmpl-{response.headers['x-llamafarm-request-id']}"
    num_prompt = len(tokenizer(WORDS).input_ids)
    assert body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 4,
        "total_tokens": num_prompt + 4,
    }
    assert response.headers["x-llamafarm-model"] == "bot:1.0.0"


def test_a_stream_is_the_same_text_in_pieces_and_ends_with_its_usage(server, tokenizer):
    asked = {**COMPLETION, "stream": True, "stream_options": {"include_usage": True}}
    *told, last = events(server.post("/v1/completions", asked))
    assert "".join(event["choices"][0]["text"] for event in told) == say(tokenizer, 4)
    assert [event["choices"][0]["finish_reason"] for event in told if event["choices"][0]["finish_reason"]] == [
        "length"
    ]
    assert len(told) > 1
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4


def test_a_stream_without_usage_asked_for_has_none(server):
    assert "usage" not in server.post("/v1/completions", {**COMPLETION, "stream": True}).text


def test_a_chat_is_asked_in_the_models_own_template(server, tokenizer, parrot):
    chat = {**CHAT, "max_completion_tokens": 100}
    body = server.post("/v1/chat/completions", chat).json()
    prompt = tokenizer.apply_chat_template(CHAT["messages"], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    assert body["usage"]["prompt_tokens"] == len(prompt_ids)
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["message"]["content"].startswith("user\nA llama?")
    assert parrot.asked[0].max_tokens == 100
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in parrot.asked[0].stop_token_ids


def test_a_chat_that_names_no_length_gets_the_room_there_is(server, parrot):
    num_prompt = server.post("/v1/chat/completions", CHAT).json()["usage"]["prompt_tokens"]
    assert parrot.asked[0].max_tokens == 256 - num_prompt


@pytest.mark.parametrize(
    ("template", "why"), [(LLAMA2, "Roles must alternate user and assistant"), (None, "The model has no chat template")]
)
def test_a_template_that_refuses_a_chat_says_why_without_the_servers_path_or_the_clients_words(template, why):
    tokenizer = make_tiny_tokenizer(template)
    tokenizer.name_or_path = "/srv/models/secret-base"
    turns = [{"role": "xyzzy", "content": "a"}, {"role": "user", "content": "b"}]
    response = server_of(Parrot(), tokenizer).post("/v1/chat/completions", {"model": "bot", "messages": turns})
    assert (response.status_code, is_openai_error(response)) == (400, True)
    assert why in response.json()["error"]["message"]
    assert not any(word in response.text for word in ("secret-base", "xyzzy"))


def test_a_chats_text_may_come_in_parts(server):
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "llama?"}]
    chat = {"model": "bot", "messages": [{"role": "user", "content": parts}], "max_tokens": 3}
    assert (
        server.post("/v1/chat/completions", chat).json()["usage"]
        == (server.post("/v1/chat/completions", {**CHAT, "max_tokens": 3}).json()["usage"])
    )


def test_several_prompts_and_answers(server, tokenizer, parrot):
    asked = {**COMPLETION, "prompt": ["A llama", "Water boils"], "n": 2, "seed": 5}
    body = server.post("/v1/completions", asked).json()
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert body["usage"]["completion_tokens"] == 16
    assert body["usage"]["prompt_tokens"] == sum(len(tokenizer(text).input_ids) for text in asked["prompt"])
    assert sorted(params.seed for params in parrot.asked) == [5, 5, 6, 6]


def test_prompts_may_be_tokens(server, tokenizer):
    ids = tokenizer(WORDS).input_ids
    for prompt in (ids, [ids]):
        assert server.post("/v1/completions", {**COMPLETION, "prompt": prompt}).json()["choices"][0]["text"] == say(
            tokenizer, 4
        )
    refused = server.post("/v1/completions", {**COMPLETION, "prompt": [1, len(tokenizer)]})
    assert refused.status_code == 400
    assert "vocabulary" in refused.json()["error"]["message"]


def test_a_stop_text_ends_the_answer_and_the_work(server, parrot):
    body = server.post("/v1/completions", {**COMPLETION, "max_tokens": 200, "stop": " of"}).json()
    assert body["choices"][0]["text"] == "The capital"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 20


def test_echo_gives_the_prompt_back_with_its_log_probabilities(tokenizer, tmp_path):
    from tiny_model import make_tiny_model

    from llamafarm_ray.serving.engines.transformers import transformers_engine

    engine = transformers_engine("tiny", make_tiny_model(tmp_path / "base"))
    engine._models[BOT] = engine._models["tiny"]
    server = server_of(Parrot(), tokenizer)
    server.gateway._app._engine = engine
    asked = {**COMPLETION, "max_tokens": 2, "temperature": 0, "echo": True, "logprobs": 2}
    choice = server.post("/v1/completions", asked).json()["choices"][0]
    told = choice["logprobs"]
    num_prompt = len(tokenizer(WORDS).input_ids)
    assert choice["text"].startswith(WORDS)
    assert "".join(told["tokens"][:num_prompt]) == WORDS
    assert [len(values) for values in told.values()] == [num_prompt + 2] * 4
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    assert all(logprob < 0 for logprob in told["token_logprobs"][1:])
    assert all(token in top for token, top in zip(told["tokens"][1:], told["top_logprobs"][1:], strict=True))
    assert told["text_offset"][:num_prompt] == [len("".join(told["tokens"][:place])) for place in range(num_prompt)]
    scored = server.post("/v1/completions", {**asked, "max_tokens": 0}).json()["choices"][0]
    assert scored["text"] == WORDS
    assert scored["logprobs"]["token_logprobs"] == pytest.approx(told["token_logprobs"][:num_prompt])


def test_log_probabilities_of_a_chat_are_finite_json(server):
    chat = {**CHAT, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}
    content = server.post("/v1/chat/completions", chat).json()["choices"][0]["logprobs"]["content"]
    assert [token["logprob"] for token in content] == [-0.5, -0.5]
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.25, -9999.0]
    assert bytes(content[0]["bytes"]).decode() == content[0]["token"]


def test_tokenize(server, tokenizer):
    body = server.post("/tokenize", {"model": "bot", "prompt": WORDS, "return_token_strs": True}).json()
    assert body["tokens"] == tokenizer(WORDS).input_ids
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == 256
    chat = server.post("/tokenize", {"model": "bot", "messages": CHAT["messages"]}).json()
    answered = server.post("/v1/chat/completions", {**CHAT, "max_tokens": 1}).json()
    assert chat["count"] == answered["usage"]["prompt_tokens"]


def test_embeddings(tokenizer):
    server = server_of(Lengths(), tokenizer)
    body = server.post("/v1/embeddings", {"model": "bot", "input": ["A llama", WORDS]}).json()
    lengths = [len(tokenizer(text).input_ids) for text in ("A llama", WORDS)]
    assert [one["embedding"] for one in body["data"]] == [[float(length), 0.5] for length in lengths]
    assert body["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    refused = server.post("/v1/completions", COMPLETION)
    assert (refused.status_code, is_openai_error(refused)) == (400, True)
    assert "vectors" in refused.json()["error"]["message"]


def test_a_model_that_writes_gives_no_vectors(server):
    refused = server.post("/v1/embeddings", {"model": "bot", "input": "A llama"})
    assert (refused.status_code, is_openai_error(refused)) == (400, True)


def test_openais_client_works(parrot, tokenizer):
    async def ask(model, work):
        server = server_of(model, tokenizer)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server.gateway)) as http:
            return await work(openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http))

    async def chats(client):
        whole = await client.chat.completions.create(**CHAT, max_tokens=12)
        stream = await client.chat.completions.create(**CHAT, max_tokens=12, stream=True)
        return whole.choices[0].message.content, [chunk.choices[0].delta async for chunk in stream]

    whole, deltas = asyncio.run(ask(parrot, chats))
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole != ""

    async def vectors(client):  # asks for base64, and takes that apart
        return await client.embeddings.create(model="bot", input=["A llama"])

    assert asyncio.run(ask(Lengths(), vectors)).data[0].embedding[1] == 0.5


@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        ("/v1/completions", {"temperature": -1}, "temperature"),
        ("/v1/completions", {"top_p": 0}, "top_p"),
        ("/v1/completions", {"logprobs": 21}, "logprobs"),
        ("/v1/completions", {"stop": [""]}, "stop"),
        ("/v1/completions", {"seed": "x", "top_p": 2}, "seed: .*top_p: "),
        ("/v1/completions", {"frequency_penalty": 0.5}, "frequency_penalty: not done"),
        ("/v1/completions", {"max_tokens": 300}, "256 is the most"),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools: not done"),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}, "response_format: not done"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ("/v1/chat/completions", {"messages": [CALLS]}, "tool_calls of a message is not done"),
        ("/v1/chat/completions", {"messages": [RESULT]}, "tool_call_id of a message is not done"),
        ("/tokenize", {"messages": [{**CALLS, "tool_calls": None, "reasoning": "Hm."}]}, "reasoning of a message"),
    ],
)
def test_what_is_not_understood_is_refused_and_named(server, parrot, path, fields, told):
    body = {**(COMPLETION if path == "/v1/completions" else CHAT), **fields}
    refused = server.post(path, body)
    assert refused.status_code == 400
    assert is_openai_error(refused)
    assert re.search(told, refused.json()["error"]["message"])
    assert parrot.num_steps == 0


LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/completions", {"prompt": ["A", LONG]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]}),
    ],
)
@pytest.mark.parametrize("limits", [None, Limits(max_prompt_tokens=200)], ids=["model", "limit"])
def test_a_text_of_too_many_characters_is_refused_before_it_is_tokenized(path, fields, limits, monkeypatch):
    tokenizer = make_tiny_tokenizer()
    server = server_of(Parrot(), tokenizer, limits=limits)
    tokenized = []
    known = type(tokenizer)

    def tokenize(self, text, **options):
        tokenized.append(text)
        return known.__call__(self, text, **options)

    watched = {"__call__": tokenize}
    monkeypatch.setattr(tokenizer, "__class__", type("Watched", (known,), watched))
    refused = server.post(path, {"model": "bot", **fields})
    assert (refused.status_code, is_openai_error(refused)) == (400, True)
    least = -(-len(LONG) // max(map(len, tokenizer.get_vocab())))
    told = re.fullmatch(r"The prompt has (\d+) tokens or more; (\d+) is the most.*", refused.json()["error"]["message"])
    assert least <= int(told[1]) <= least + 10
    assert int(told[2]) == (200 if limits is not None else 256)
    assert not any(len(text) > 1000 for text in tokenized)


def test_vectors_of_too_long_texts_are_refused_before_they_are_tokenized(tokenizer):
    short = Lengths()
    short.max_model_len = 8
    refused = server_of(short, tokenizer).post("/v1/embeddings", {"model": "bot", "input": LONG})
    assert "tokens or more; 8 is the most" in refused.json()["error"]["message"]


def test_nothing_cannot_be_tokenised(server):
    refused = server.post("/tokenize", {"model": "bot"})
    assert refused.status_code == 400
    assert "nothing to tokenise" in refused.json()["error"]["message"]


def test_fields_that_ask_for_nothing_are_let_through(server):
    asked = {**COMPLETION, "frequency_penalty": 0, "logit_bias": None, "user": "ann", "best_of": 1}
    assert server.post("/v1/completions", asked).status_code == 200


def test_an_answer_can_be_sent_back_as_openais_client_writes_it(server):
    turns = [
        {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None, "annotations": [], "name": "a"}
    ]
    assert server.post("/v1/chat/completions", {**CHAT, "messages": [*CHAT["messages"], *turns]}).status_code == 200


def test_an_engine_that_breaks_tells_the_log_and_not_the_client(tokenizer, caplog):
    server = server_of(Failing(), tokenizer)
    with caplog.at_level(logging.ERROR, logger="ray.serve.llamafarm"):
        refused = server.post("/v1/completions", COMPLETION)
    assert refused.status_code == 503
    assert is_openai_error(refused)
    assert "secret" not in refused.text
    assert "ZeroDivisionError" in caplog.text
    streamed = events(server.post("/v1/completions", {**COMPLETION, "stream": True}))
    assert streamed[-1]["error"]["message"].startswith("The model's engine failed")


def test_who_goes_away_ends_the_work(tokenizer):
    parrot = Parrot(pace_s=0.005)
    engine = engine_of(parrot, tokenizer)

    async def scenario():
        gone = asyncio.Event()
        body = json.dumps({**COMPLETION, "model": BOT, "max_tokens": 200, "stream": True}).encode()
        incoming = [{"type": "http.request", "body": body}]

        async def receive():
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                gone.set()
                await asyncio.sleep(3600)  # a client that reads no more

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        async with asyncio.timeout(patience(10)):
            await EngineApp(engine)(scope, receive, send)
            while engine._worker.num_jobs:  # noqa: ASYNC110 - of a thread that tells nobody
                await asyncio.sleep(0.001)

    asyncio.run(scenario())
    assert parrot.num_closed == 1
    assert parrot.num_steps < 200


def test_keys_and_limits_are_the_gateways(parrot, tokenizer):
    server = server_of(parrot, tokenizer, state=keyed_state(), limits=Limits(max_prompt_tokens=3))
    for route in ROUTES:
        assert server.post(route, COMPLETION).status_code == 401
    assert server.post("/v1/completions", {**COMPLETION, "prompt": "A"}, key=ANN).status_code == 200
    assert server.post("/v1/completions", COMPLETION, key=BEN).status_code in {403, 404}
    for path, field in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        refused = server.post(path, {"model": "bot", field: WORDS}, key=ANN)
        assert "3 is the most" in refused.json()["error"]["message"]


def test_there_are_the_gateways_routes_and_embeddings(server):
    assert MODEL_ROUTES | {"/v1/embeddings"} == ROUTES
    assert server.request("GET", "/health").status_code == 200
    assert server.request("GET", "/metrics").status_code == 404
