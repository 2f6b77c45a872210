"""What a key may ask for: requests and tokens a minute, requests at the same time. What is over that is a 429."""

import asyncio

import pytest
from gate import ANN, BEN, Engine, Server, is_openai_error, keyed_state

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.limits import Accounts, TokenBucket
from llamafarm_ray.serving.refusals import LimitError

BODY = {"model": "team/bot", "prompt": "one two", "max_tokens": 3}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def server_with(clock, **limits):
    server = Server(state=keyed_state(), limits=Limits(**limits))
    server.gate._accounts._clock = clock
    return server


def complete(server, key=BEN, **fields):
    return server.post("/v1/completions", {**BODY, **fields}, key=key)


def test_a_bucket_holds_a_minutes_worth_and_fills_steadily(clock):
    bucket = TokenBucket(60.0, clock)
    bucket.take(60.0)
    assert bucket.wait_s(1.0) == pytest.approx(1.0)
    clock.now = 1.0
    assert bucket.wait_s(1.0) == 0
    clock.now = 1000.0
    bucket.take(60.0)
    assert bucket.wait_s(1.0) == pytest.approx(1.0)


def test_a_debt_is_waited_for(clock):
    bucket = TokenBucket(60.0, clock)
    bucket.take(180.0)
    assert bucket.wait_s(1.0) == pytest.approx(121.0)


def test_a_rate_of_less_than_one_a_minute_lets_one_through(clock):
    bucket = TokenBucket(0.5, clock)
    assert bucket.wait_s(1.0) == 0
    bucket.take(1.0)
    assert bucket.wait_s(1.0) == pytest.approx(120.0)


def test_a_key_gets_its_requests_a_minute_and_is_told_when_to_come_back(clock):
    server = server_with(clock, requests_per_minute=3)
    assert [complete(server).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = complete(server)
    assert refused.headers["retry-after"] == "20"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert is_openai_error(refused)
    clock.now = float(refused.headers["retry-after"])
    assert complete(server).status_code == 200


def test_the_keys_are_counted_apart(clock):
    server = server_with(clock, requests_per_minute=1)
    assert [complete(server, key).status_code for key in (BEN, BEN, ANN, ANN)] == [200, 429, 200, 429]


def test_refused_requests_and_looking_around_count_as_requests(clock):
    server = server_with(clock, requests_per_minute=2)
    server.request("GET", "/v1/models", key=BEN)
    server.request("GET", "/nowhere", key=BEN)
    assert complete(server).status_code == 429


def test_health_and_strangers_count_for_nobody(clock):
    server = server_with(clock, requests_per_minute=1)
    server.request("GET", "/health")
    assert complete(server, "lfr_stranger").status_code == 401
    assert complete(server).status_code == 200


@pytest.mark.parametrize(
    "stream",
    [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}],
    ids=["whole", "stream", "stream with usage"],
)
def test_the_tokens_of_prompts_and_answers_count_as_the_engine_counted_them(clock, stream):
    server = server_with(clock, tokens_per_minute=60)
    assert complete(server, **stream).status_code == 200
    account = server.gate._accounts._accounts["ben"]
    assert account.tokens._balance == 60 - (2 + 3)


def test_tokens_taken_beyond_the_budget_are_waited_for(clock):
    server = server_with(clock, tokens_per_minute=60)
    assert complete(server, max_tokens=118).status_code == 200
    refused = complete(server)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "61")
    assert complete(server, ANN).status_code == 200
    clock.now = 61.0
    assert complete(server).status_code == 200


def test_counting_tokens_costs_none(clock):
    server = server_with(clock, tokens_per_minute=60)
    server.post("/tokenize", {"model": "team/bot", "prompt": "one two"}, key=BEN)
    assert server.gate._accounts._accounts["ben"].tokens._balance == 60


def test_what_the_engine_refuses_costs_no_tokens(clock):
    server = server_with(clock, tokens_per_minute=60)

    async def refusing(scope, receive, send):
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"error": {}}'})

    server.gate._app = refusing
    assert complete(server).status_code == 400
    assert server.gate._accounts._accounts["ben"].tokens._balance == 60


def test_a_stream_that_breaks_off_costs_what_was_seen_of_it(clock):
    server = server_with(clock, tokens_per_minute=1000)

    async def breaking(scope, receive, send):
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(7):
            await send({"type": "http.response.body", "body": b'data: {"choices": [{}]}\n\n', "more_body": True})
        raise ConnectionError

    server.gate._app = breaking
    with pytest.raises(ConnectionError):
        complete(server, stream=True)
    left = server.gate._accounts._accounts["ben"].tokens._balance
    assert 1000 - 7 - 40 <= left < 1000 - 7
    assert server.gate._turns._num_free == 256


def test_a_key_has_as_many_requests_at_once_as_it_may():
    server = Server(state=keyed_state(), engine=Engine(seconds=0.05), limits=Limits(concurrent_requests=2))

    async def scenario():
        async with server.client(BEN) as ben, server.client(ANN) as ann:
            asked = [client.post("/v1/completions", json=BODY) for client in (ben, ben, ben, ann)]
            together = await asyncio.gather(*asked)
            return [response.status_code for response in [*together, await ben.post("/v1/completions", json=BODY)]]

    assert sorted(asyncio.run(scenario())) == [200, 200, 200, 200, 429]
    assert server.engine.most_running == 3


def test_requests_wait_for_the_engine_and_too_many_are_refused():
    limits = Limits(running_requests=1, queued_requests=2)
    server = Server(state=keyed_state(), engine=Engine(seconds=0.02), limits=limits)

    async def scenario():
        async with server.client(BEN) as client:
            responses = await asyncio.gather(*(client.post("/v1/completions", json=BODY) for _ in range(5)))
        assert server.engine.most_running == 1
        return responses

    responses = asyncio.run(scenario())
    assert sorted(response.status_code for response in responses) == [200, 200, 200, 429, 429]
    assert all(int(response.headers["retry-after"]) >= 1 for response in responses if response.status_code == 429)


def test_a_request_that_waits_too_long_is_refused():
    limits = Limits(running_requests=1, queue_timeout_s=0.01)
    server = Server(engine=Engine(seconds=0.1), limits=limits)

    async def scenario():
        async with server.client() as client:
            body = {**BODY, "model": "bot"}
            return await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(2)))

    assert sorted(response.status_code for response in asyncio.run(scenario())) == [200, 429]


def test_an_account_is_left_as_it_was_found_after_an_error(clock):
    accounts = Accounts(Limits(concurrent_requests=1), clock)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), accounts.admitted("ann"):
            raise ZeroDivisionError
    with accounts.admitted("ann"), pytest.raises(LimitError), accounts.admitted("ann"):
        pass


def test_a_laptop_has_no_limits_to_stumble_over():
    limits = Limits()
    assert limits.requests_per_minute is limits.tokens_per_minute is limits.concurrent_requests is None
    assert limits.max_prompt_tokens is limits.max_completion_tokens is None
