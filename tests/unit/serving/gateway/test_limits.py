"""What a key may ask for: requests and tokens a minute, requests at the same time. What is over that is a 429."""

import asyncio

import pytest
from fake_gateway import ANN, BEN, Engine, Server, is_openai_error, keyed_state

from llamafarm_ray.config import Limits
from llamafarm_ray.serving.gateway.limits import Accounts, TokenBucket
from llamafarm_ray.serving.gateway.shared_limits import Ledger, keep_shared
from llamafarm_ray.serving.http.errors import LimitError

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
    server.gateway._accounts._clock = clock
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
    account = server.gateway._accounts._accounts["ben"]
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
    assert server.gateway._accounts._accounts["ben"].tokens._balance == 60


def test_what_the_engine_refuses_costs_no_tokens(clock):
    server = server_with(clock, tokens_per_minute=60)

    async def refusing(scope, receive, send):
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"error": {}}'})

    server.gateway._app = refusing
    assert complete(server).status_code == 400
    assert server.gateway._accounts._accounts["ben"].tokens._balance == 60


def test_a_stream_that_breaks_off_costs_what_was_seen_of_it(clock):
    server = server_with(clock, tokens_per_minute=1000)

    async def breaking(scope, receive, send):
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(7):
            await send({"type": "http.response.body", "body": b'data: {"choices": [{}]}\n\n', "more_body": True})
        raise ConnectionError

    server.gateway._app = breaking
    with pytest.raises(ConnectionError):
        complete(server, stream=True)
    left = server.gateway._accounts._accounts["ben"].tokens._balance
    assert 1000 - 7 - 40 <= left < 1000 - 7
    assert server.gateway._turns._num_free == 256


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


class Replicas:
    """Replicas of an application, and the ledger that they tell each other by."""

    def __init__(self, clock, num, **limits):
        self.clock, self.limits = clock, Limits(**limits)
        self.ledger = Ledger(clock)
        self.accounts = {str(name): Accounts(self.limits, clock) for name in range(num)}
        self.exchange()

    def exchange(self):
        for _ in range(2):  # by the second time each has told
            for name, accounts in self.accounts.items():
                accounts.hear(self.ledger.exchange(name, accounts.tell()))

    def add(self, name):
        self.accounts[name] = Accounts(self.limits, self.clock)

    def take(self, replica, key="ann", num_tokens=0):
        with self.accounts[str(replica)].admitted(key) as account:
            account.settle(num_tokens)

    def takes(self, replica, key="ann", most=1000):
        """How many requests a key gets before it is refused."""
        for count in range(most):
            try:
                self.take(replica, key)
            except LimitError:
                return count
        return most


def test_what_a_key_takes_at_one_replica_it_does_not_get_at_another(clock):
    replicas = Replicas(clock, 3, requests_per_minute=10)
    assert replicas.takes(0, most=6) == 6
    replicas.exchange()
    assert replicas.takes(1) == 4
    assert replicas.takes(1, "ben", most=3) == 3
    replicas.exchange()
    replicas.exchange()  # nothing is charged twice
    assert [replicas.takes(replica) for replica in (2, 0)] == [0, 0]
    assert [replicas.takes(replica, "ben") for replica in (2, 0)] == [7, 7]  # at the same moment, each what is left
    replicas.exchange()
    clock.now = 36.0
    assert replicas.takes(0, "ben") == 0  # but that is charged: 17 of 10 were taken, 6 came in
    clock.now = 54.0
    assert replicas.takes(0, "ben") == 2


def test_in_the_long_run_a_key_gets_its_rate_however_many_replicas_it_asks(clock):
    replicas = Replicas(clock, 4, requests_per_minute=60)
    got = 0
    for second in range(600):
        clock.now = float(second)
        got += sum(replicas.takes(replica, most=5) for replica in range(4))
        replicas.exchange()
    assert 600 <= got <= 600 + 60 + 4 * 5


def test_a_key_within_its_rate_is_never_refused_whatever_comes_and_goes(clock):
    """20 of 60 a minute at each of three replicas, with pauses, replicas and controllers that come and go."""
    replicas = Replicas(clock, 3, requests_per_minute=60)
    for second in range(0, 7200, 3):
        clock.now = float(second)
        if 600 <= second < 690 or 3000 <= second < 3100:
            continue  # it pauses for longer than anything remembers
        for name in replicas.accounts:
            replicas.take(name)  # raises where it is refused
        if second in {690, 4200}:
            replicas.add(f"new at {second}")
            replicas.accounts.pop(next(iter(replicas.accounts)))
        if second == 2400:
            replicas.ledger = Ledger(clock)
        if not 5000 <= second < 6800:  # half an hour without a controller
            replicas.exchange()
        else:
            [accounts.tell() for accounts in replicas.accounts.values()]  # which nobody hears


def test_tokens_are_shared_too_and_a_debt_is_everywhere(clock):
    replicas = Replicas(clock, 2, tokens_per_minute=60)
    replicas.take(0, num_tokens=118)
    replicas.exchange()
    with pytest.raises(LimitError) as refused:
        replicas.take(1)
    assert refused.value.retry_after_s == pytest.approx(59.0)


def test_requests_under_way_count_at_each_replica_for_itself(clock):
    """Who has one after the other, and may have one, is never refused because the last was elsewhere."""
    replicas = Replicas(clock, 2, concurrent_requests=1)
    for replica in ("0", "1") * 20:
        with replicas.accounts[replica].admitted("ann"):
            replicas.exchange()
            with pytest.raises(LimitError, match="has 1 requests under way"):
                replicas.take(replica)


def test_of_a_replica_that_is_gone_nothing_is_kept(clock):
    replicas = Replicas(clock, 2, requests_per_minute=5)
    del replicas.accounts["0"]
    replicas.take(1)
    clock.now = 4.0
    replicas.exchange()
    assert set(replicas.ledger._replicas) == {"0", "1"}
    clock.now = 5.0
    replicas.exchange()
    assert set(replicas.ledger._replicas) == {"1"}


def test_accounts_that_are_as_new_are_not_kept(clock):
    replicas = Replicas(clock, 2, requests_per_minute=10, concurrent_requests=2)
    for number in range(100):
        replicas.take(0, f"key {number}")
    with replicas.accounts["0"].admitted("ann"):
        replicas.exchange()
        assert [len(accounts._accounts) for accounts in replicas.accounts.values()] == [101, 101]
        clock.now = 60.0
        replicas.exchange()
        replicas.exchange()
        assert [list(accounts._accounts) for accounts in replicas.accounts.values()] == [["ann"], []]
    replicas.exchange()
    replicas.exchange()
    assert [len(accounts._accounts) for accounts in replicas.accounts.values()] == [0, 0]


def test_without_limits_nothing_is_told():
    assert not Accounts(Limits(running_requests=3)).are_shared
    assert not Accounts(Limits(concurrent_requests=3)).are_shared
    for name in ("requests_per_minute", "tokens_per_minute"):
        assert Accounts(Limits(**{name: 5})).are_shared


def test_replicas_go_on_telling_each_other(clock, caplog):
    """Two loops over one ledger, which is away for a while, and breaks once."""
    both = [Accounts(Limits(requests_per_minute=10), clock) for _ in range(2)]
    ledger, mood = Ledger(clock), ["there"]

    async def exchange(name, taken):
        if mood[0] == "broken":
            raise ZeroDivisionError
        return ledger.exchange(name, taken) if mood[0] == "there" else None

    async def told():
        for _ in range(20):
            await asyncio.sleep(0.002)

    def left():
        return [accounts._account("ann").requests._balance for accounts in both]

    async def main():
        loops = [asyncio.create_task(keep_shared(accounts, exchange, every_s=0.001)) for accounts in both]
        await told()
        with both[0].admitted("ann"):
            await told()
            assert left() == [9, 9]
            mood[0] = "away"
            await told()
            with both[1].admitted("ann"):
                pass
            await told()
            assert left() == [9, 8]
            mood[0] = "broken"
            await told()
            mood[0] = "there"
            await told()
            assert left() == [9, 8]  # what was taken while nobody listened is not charged later
            with both[1].admitted("ann"):
                await told()
            assert left() == [8, 7]
        for loop in loops:
            loop.cancel()

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text
