"""A provider's batch API answers what it can, nothing is asked twice, and a build that was killed goes on with it."""

import pickle
from dataclasses import replace

import pytest
from batch_server import bad, batch_server, good

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation import choose_generator, plan_writer
from llamafarm_ray.data.generation.endpoint import batches
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.errors import AccessDeniedError, InputError
from llamafarm_ray.types import Digest

TEXT = "The mill opens at 09:00. Entry costs 4 euros."
PASSAGES = [Passage("a.md", Digest.of(b""), "The Mill", (f"Part {n}",), TEXT, n, 9) for n in range(9)]


@pytest.fixture
def server():
    with batch_server() as running:
        yield running


def plan_for(server, cache, **endpoint):
    settings = {"base_url": server.url, "batch": True, "concurrency": 2, "max_attempts": 3, **endpoint}
    qa = QaGeneration.model_validate({"model": "gpt", "phrasings": 1, "endpoint": settings})
    choice = choose_generator(qa, base_model=None, environment={})
    return plan_writer(choice, qa, cache=str(cache), environment={})


def writer_for(server, cache, **endpoint):
    writer = pickle.loads(pickle.dumps(plan_for(server, cache, **endpoint))).open()  # noqa: S301  as in its actor
    writer._terms.first_wait_s = 0.001
    writer._asker._batches = replace(writer._asker._batches, first_poll_s=0.001, longest_poll_s=0.002)
    return writer


def num_pairs(written):
    return [len(one.examples) for one in written]


def test_all_requests_go_in_one_file_and_answers_come_back_by_their_ids(server, tmp_path):
    writer = writer_for(server, tmp_path, input_usd_per_million_tokens=1, output_usd_per_million_tokens=10)
    written = list(writer.write(PASSAGES))
    assert num_pairs(written) == [2] * 9
    assert [one.examples[0].passage_index for one in written] == list(range(9))
    assert (len(server.batches), len(server.requests(0)), server.chats) == (1, 9, [])
    assert all(body["response_format"]["type"] == "json_schema" for body in server.requests(0).values())
    # 9 requests of 100 tokens in and 20 out, at half of the price
    assert writer._terms.budget.spent_usd == pytest.approx(9 * (100 * 1 + 20 * 10) / 1e6 / 2)
    calls = server.calls.copy()
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES)) == [2] * 9
    assert server.calls == calls


def test_what_a_batch_leaves_over_goes_in_another_one_and_at_last_one_by_one(server, tmp_path):
    def result(number, key, body):
        parts = [f"Part {part}\n" in body["messages"][1]["content"] for part in range(9)]
        if number == 0 and any(parts[:2]):
            return bad(key, 500, "busy")
        if number == 0 and any(parts[2:4]):
            return None  # expired
        if number == 0 and parts[4]:
            return "{damaged"
        if number == 0 and parts[5]:
            return {"custom_id": "another", "response": {"status_code": 200, "body": {}}}
        if number == 0 and parts[6]:
            return good(key, body, content="Sure! Here are your pairs.")
        return bad(key, 429, "later") if number == 1 and any(parts[:2]) else good(key, body)

    server.result, server.end = result, "expired"
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES)) == [2] * 9
    assert [len(server.requests(number)) for number in range(len(server.batches))] == [9, 6]
    # two that failed twice, and the one whose answer was no JSON
    assert len(server.chats) == 3


@pytest.mark.parametrize("is_recorded", [True, False], ids=["with its record", "by its mark"])
def test_a_build_that_was_killed_goes_on_with_its_batch(server, tmp_path, is_recorded):
    server.fault = lambda method, kind, _: "401" if (method, kind) == ("GET", "batches") and server.batches else ""
    with pytest.raises(AccessDeniedError):
        list(writer_for(server, tmp_path).write(PASSAGES))
    (record,) = (tmp_path / "batches").iterdir()
    if not is_recorded:
        record.unlink()
    server.fault = lambda *_: ""
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES)) == [2] * 9
    assert (len(server.batches), server.calls["POST files"], server.chats) == (1, 1, [])


def test_failures_that_pass_are_tried_again_and_no_batch_is_created_twice(server, tmp_path):
    faults = {("POST", "files", 0): "503", ("POST", "batches", 0): "cut", ("GET", "batches", 1): "500"}
    faults |= {("GET", "batches", 3): "cut", ("GET", "files/content", 0): "cut"}
    server.fault = lambda *call: faults.get(call, "")
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES)) == [2] * 9
    assert (len(server.batches), server.calls["POST batches"], server.chats) == (1, 1, [])


def test_the_form_that_a_server_takes_is_learnt_from_the_errors_of_a_batch(server, tmp_path):
    def result(_, key, body):
        return bad(key, 400, "unknown parameter response_format") if "response_format" in body else good(key, body)

    server.result = result
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES)) == [2] * 9
    assert (len(server.batches), server.chats) == (2, [])


def test_a_server_without_batches_and_a_batch_that_is_refused_are_named(server, tmp_path):
    server.fault = lambda _method, kind, _number: "404" if kind == "files" else ""
    with pytest.raises(InputError, match=r"has no batch API .*endpoint\.batch to false"):
        list(writer_for(server, tmp_path / "a").write(PASSAGES))
    server.fault, server.end, server.errors = lambda *_: "", "failed", ["The model gpt is not for batches."]
    for _ in range(2):  # the next attempt creates another one
        with pytest.raises(InputError, match=r"status 'failed' \(The model gpt is not for batches\.\)"):
            list(writer_for(server, tmp_path / "b").write(PASSAGES))
    assert len(server.batches) == 2


def test_few_requests_are_sent_at_once_and_many_in_several_files(server, tmp_path, monkeypatch):
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES[:2])) == [2, 2]
    assert (len(server.chats), server.batches) == (2, [])
    monkeypatch.setattr(batches, "MAX_REQUESTS", 3)
    assert num_pairs(writer_for(server, tmp_path).write(PASSAGES)) == [2] * 9
    assert sorted(len(server.requests(number)) for number in range(3)) == [1, 3, 3]


def test_a_batch_that_could_cost_more_than_the_limit_is_not_sent(server, tmp_path):
    prices = {"input_usd_per_million_tokens": 0, "output_usd_per_million_tokens": 1000, "max_output_tokens": 1000}
    # 9 requests of 1000 tokens at half of a thousandth of a dollar
    with pytest.raises(InputError, match="max_cost_usd"):
        list(writer_for(server, tmp_path, max_cost_usd=4.4, **prices).write(PASSAGES))
    assert server.calls == {}
    assert num_pairs(writer_for(server, tmp_path, max_cost_usd=4.6, **prices).write(PASSAGES)) == [2] * 9


def test_a_plan_with_batches_gives_them_many_passages_and_their_price(server, tmp_path):
    plan = plan_for(server, tmp_path, batch_price_factor=0.4)
    assert (plan.passages_per_batch, plan.price_factor) == (20_000, 0.4)
    direct = plan_for(server, tmp_path, batch=False)
    assert (direct.passages_per_batch, direct.price_factor) == (8, 1.0)
    assert direct.digest == plan.digest
