"""Tokens of a namespace on a day: what is beyond its quota is a 429 until midnight, whichever replica served it."""

import asyncio
import datetime as dt

import pytest
from fake_gateway import Server, is_openai_error, models_state

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry.events import QuotaSet
from llamafarm_ray.registry.usage import Amounts, Quota, WorkKey, write_page
from llamafarm_ray.serving.gateway.token_quotas import TokenQuotas
from llamafarm_ray.serving.http.errors import LimitError
from llamafarm_ray.storage import Location

DAY = dt.date(2026, 11, 29)
SERVED = WorkKey("team", "bot", "serve", "CPU")
BODY = {"model": "team/bot:1.0.0", "prompt": "one two", "max_tokens": 3}


class Clock:
    def __init__(self):
        self.now = dt.datetime(2026, 11, 29, 23, 0, tzinfo=dt.UTC).timestamp()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quotas(tmp_path, clock):
    state = models_state(QuotaSet(namespace="team", quota=Quota(tokens_per_day=10)))
    return TokenQuotas(lambda: state, Location(tmp_path), "me", clock=clock)


def test_a_request_beyond_the_quota_is_refused_until_midnight(quotas, clock):
    server = Server(state=quotas._state(), quotas=quotas)
    assert [server.post("/v1/completions", BODY).status_code for _ in range(3)] == [200, 200, 429]
    refused = server.post("/v1/completions", BODY)
    assert is_openai_error(refused)
    assert "Namespace 'team' may use 10 tokens a day, and has used 10." in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "3600"
    assert server.post("/v1/completions", {**BODY, "model": "bot"}).status_code == 200
    assert server.post("/tokenize", {"model": "team/bot:1.0.0", "prompt": "one"}).status_code == 200
    clock.now += 3601
    assert server.post("/v1/completions", BODY).status_code == 200


def test_tokens_of_other_replicas_count_and_ones_own_pages_do_not(quotas, tmp_path):
    write_page(Location(tmp_path), DAY, "me", [(SERVED, Amounts(0, 100))])
    write_page(Location(tmp_path), DAY, "other", [(SERVED, Amounts(0, 6))])
    asyncio.run(quotas.read())
    quotas.check("team/bot:1.0.0")
    quotas.count("team/bot:1.0.0", 4)
    with pytest.raises(LimitError, match="has used 10"):
        quotas.check("team/bot:1.0.0")
    asyncio.run(quotas.read())  # the other's page again: it is not added twice
    with pytest.raises(LimitError, match="has used 10"):
        quotas.check("team/bot:1.0.0")


def test_yesterdays_tokens_are_forgotten(quotas, tmp_path, clock):
    write_page(Location(tmp_path), DAY, "other", [(SERVED, Amounts(0, 60))])
    asyncio.run(quotas.read())
    clock.now += 3601
    quotas.check("team/bot:1.0.0")


def test_while_the_ledger_is_away_what_was_read_stands(quotas, tmp_path, monkeypatch, caplog):
    write_page(Location(tmp_path), DAY, "other", [(SERVED, Amounts(0, 60))])
    asyncio.run(quotas.read())

    def away(*_, **__):
        raise StorageError("nobody answers")

    monkeypatch.setattr("llamafarm_ray.serving.gateway.token_quotas.read_ledger", away)
    for _ in range(2):
        asyncio.run(quotas.read())
    assert caplog.text.count("nobody answers") == 1
    with pytest.raises(LimitError):
        quotas.check("team/bot:1.0.0")
