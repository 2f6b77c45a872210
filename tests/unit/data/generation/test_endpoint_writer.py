"""An endpoint that fails in every way still gives its pairs, is asked for nothing twice, and is kept to its limits."""

import asyncio
import json
import pickle
import time
from dataclasses import replace

import pytest
from chat_server import chat_server, pairs_for

from llamafarm_ray.config import DatasetConfig, QaGeneration
from llamafarm_ray.data import estimate_pairs
from llamafarm_ray.data.generation import choose_generator, plan_writer
from llamafarm_ray.data.generation.endpoint.limits import Pace
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.errors import AccessDeniedError, InfrastructureError, InputError, NotFoundError
from llamafarm_ray.text.refusals import NOT_SAID
from llamafarm_ray.types import Digest

KEY = {"OPENAI_API_KEY": "secret"}


def passage(index, text="The mill opens at 09:00. Entry costs 4 euros.", num_passages=100):
    return Passage("a.md", Digest.of(b""), "The Mill", ("The Mill", f"Part {index}"), text, index, num_passages)


def writer_for(url, cache, *, questions_per_doc=None, unanswerable=False, phrasings=1, **endpoint):
    settings = {"base_url": url, "timeout_s": 5.0, "max_attempts": 4, **endpoint}
    qa = QaGeneration.model_validate(
        {
            "model": "gpt",
            "questions_per_doc": questions_per_doc,
            "unanswerable": unanswerable,
            "phrasings": phrasings,
            "endpoint": settings,
        }
    )
    choice = choose_generator(qa, base_model=None, environment=KEY)
    plan = plan_writer(choice, qa, cache=str(cache), environment=KEY)
    writer = pickle.loads(pickle.dumps(plan)).open()  # noqa: S301  as it travels to its actor
    writer._terms.first_wait_s = 0.001
    return writer


def write(writer, passages):
    return list(writer.write(passages))


def test_pairs_come_with_their_passage_and_origin(tmp_path):
    with chat_server() as server:
        (written,) = write(writer_for(server.url, tmp_path), [passage(3)])
    first, second = written.examples
    assert (first.question, first.answer) == ("What is fact 0 of The Mill?", "The mill opens at 09:00.")
    assert second.answer == "Entry costs 4 euros."
    assert (first.document, first.passage_index, first.passage) == ("a.md", 3, passage(3).with_headings)
    assert first.fact != second.fact
    origin = first.provenance
    assert (origin.generator, origin.model, origin.prompt) == ("endpoint", "gpt", "1")
    assert len(origin.settings) == 12
    assert server.headers[0]["authorization"] == "Bearer secret"
    (body,) = server.asked
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt", 0.3, 4096)
    assert body["response_format"]["type"] == "json_schema"
    assert "Write 2 pairs" in body["messages"][1]["content"]


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "not json", "garbage", "length"])
def test_a_failure_that_passes_is_tried_again(tmp_path, fault):
    with chat_server(
        fault=lambda attempt, body: fault if attempt == 0 and len(body["messages"]) == 2 else ""
    ) as server:
        written = write(writer_for(server.url, tmp_path), [passage(0), passage(1)])
    assert [len(one.examples) for one in written] == [2, 2]
    assert len(server.asked) == 4


def test_a_server_that_does_not_answer_in_time_is_asked_again(tmp_path):
    with chat_server(fault=lambda attempt, _: "hang" if attempt == 0 else "") as server:
        (written,) = write(writer_for(server.url, tmp_path, timeout_s=0.1), [passage(0)])
    assert len(written.examples) == 2


def test_all_requests_wait_as_long_as_the_server_says(tmp_path):
    with chat_server(fault=lambda attempt, _: "429" if attempt == 0 else "") as server:
        server.retry_after = "0.2"
        begin, writer = time.monotonic(), writer_for(server.url, tmp_path)
        write(writer, [passage(0)])
    assert time.monotonic() >= writer._terms.closed_until >= begin + 0.2


def test_after_all_attempts_the_last_failure_is_told_and_nothing_is_stored(tmp_path):
    told = r"in 4 attempts; the last one: HTTP 500"
    with chat_server(fault=lambda *_: "500") as server, pytest.raises(InfrastructureError, match=told):
        write(writer_for(server.url, tmp_path), [passage(0)])
    assert not list(tmp_path.rglob("*.json"))


def test_a_server_that_asks_to_wait_for_an_hour_is_not_waited_for(tmp_path):
    with chat_server(fault=lambda *_: "429") as server:
        server.retry_after = "3600"
        with pytest.raises(InfrastructureError, match="asks to wait 3,600 s"):
            write(writer_for(server.url, tmp_path), [passage(0)])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        ("401", AccessDeniedError, "does not accept the key"),
        ("404", NotFoundError, "no such model"),
        ("429 insufficient_quota", InputError, "no credit"),
        ("400", InputError, "refuses all requests"),
    ],
)
def test_a_failure_that_stays_stops_the_build_at_once(tmp_path, fault, error, told):
    with chat_server(fault=lambda *_: fault) as server, pytest.raises(error, match=told):
        write(writer_for(server.url, tmp_path), [passage(0)])
    assert len(server.asked) == 1


def test_a_request_that_is_refused_is_counted_and_the_others_go_on(tmp_path):
    with chat_server(fault=lambda _, body: "400" if "secret" in body["messages"][1]["content"] else "") as server:
        bad, good = write(writer_for(server.url, tmp_path), [passage(0, "A secret recipe for bread."), passage(1)])
    assert (bad.examples, bad.dropped) == ((), {"request refused by the model": 1})
    assert len(good.examples) == 2


def test_an_answer_that_is_bad_twice_is_dropped_and_asked_for_again_next_time(tmp_path):
    with chat_server(answer=lambda _: '{"pairs": 7}') as server:
        (written,) = write(writer_for(server.url, tmp_path), [passage(0)])
        assert written.dropped == {"answer is not the JSON that was asked for": 1}
        assert "Answer again" in server.asked[1]["messages"][3]["content"]
        assert len(server.asked) == 2
        server.answer = pairs_for
        (again,) = write(writer_for(server.url, tmp_path), [passage(0)])
    assert len(again.examples) == 2


def test_nothing_is_asked_twice(tmp_path):
    passages = [passage(index) for index in range(6)]
    with chat_server(fault=lambda _, body: "garbage" if len(body["messages"]) == 2 else "") as server:
        first = write(writer_for(server.url, tmp_path), passages)
        num_asked = len(server.asked)
        assert write(writer_for(server.url, tmp_path), passages) == first
        assert len(server.asked) == num_asked
        write(writer_for(server.url, tmp_path, temperature=0.9), passages[:1])
        assert len(server.asked) == num_asked + 2


def test_a_writer_that_fails_half_way_asks_only_for_the_rest(tmp_path):
    passages = [passage(index) for index in range(8)]
    with chat_server(fault=lambda _, body: "401" if "Part 5" in body["messages"][1]["content"] else "") as server:
        with pytest.raises(AccessDeniedError):
            write(writer_for(server.url, tmp_path, concurrency=2), passages)
        server.fault = lambda *_: ""
        written = write(writer_for(server.url, tmp_path, concurrency=2), passages)
        with chat_server() as other:
            whole = write(writer_for(other.url, tmp_path / "other", concurrency=2), passages)
    assert written == whole
    assert sum(count - 1 for count in server.answered.values()) <= 2  # those in flight at the failure


def test_a_damaged_stored_answer_is_asked_for_again(tmp_path):
    with chat_server() as server:
        write(writer_for(server.url, tmp_path), [passage(0)])
        (stored,) = tmp_path.rglob("*.json")
        stored.write_text(stored.read_text()[:20])
        assert len(write(writer_for(server.url, tmp_path), [passage(0)])[0].examples) == 2
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("complaint", "changed"),
    [
        ("400 response_format json_schema is not supported", lambda body: "response_format" not in body),
        ("400 use max_completion_tokens instead of max_tokens", lambda body: body["max_completion_tokens"] == 4096),
        ("400 unsupported value: temperature", lambda body: "temperature" not in body),
    ],
)
def test_a_server_that_wants_another_form_gets_it_and_is_not_asked_the_old_way_again(tmp_path, complaint, changed):
    with chat_server(fault=lambda _, body: "" if changed_or_error(changed, body) else complaint) as server:
        written = write(writer_for(server.url, tmp_path, concurrency=1), [passage(0), passage(1)])
    assert [len(one.examples) for one in written] == [2, 2]
    assert len(server.asked) == 3


def changed_or_error(changed, body):
    try:
        return changed(body)
    except KeyError:
        return False


def test_no_more_requests_at_once_than_asked_for(tmp_path):
    with chat_server() as server:
        write(writer_for(server.url, tmp_path, concurrency=3), [passage(index) for index in range(12)])
    assert server.most_at_once <= 3


def test_the_cost_never_passes_the_limit(tmp_path):
    prices = {"input_usd_per_million_tokens": 1000.0, "output_usd_per_million_tokens": 1000.0}
    with chat_server() as server:
        writer = writer_for(server.url, tmp_path, concurrency=1, max_cost_usd=2.0, max_output_tokens=1024, **prices)
        with pytest.raises(InputError, match="max_cost_usd"):
            write(writer, [passage(index) for index in range(30)])
    budget = writer._terms.budget
    assert len(server.asked) >= 2
    assert budget.spent_usd == pytest.approx(0.12 * len(server.asked))
    assert budget.spent_usd <= 2.0


def test_pairs_that_do_not_fit_are_dropped_with_the_reason(tmp_path):
    pairs = [
        {"questions": ["When does the mill open?"], "answer": "At 09:00."},
        {"questions": ["What does the passage say?"], "answer": "That entry costs 4 euros."},
        {"questions": ["Who is the author of the mill's guide?"], "answer": "The miller."},
        {"questions": [" "], "answer": "x"},
        {"questions": ["Who built the mill?"], "answer": ""},
    ]
    with chat_server(answer=lambda _: json.dumps({"pairs": pairs})) as server:
        (written,) = write(writer_for(server.url, tmp_path), [passage(0)])
        (refusing,) = write(writer_for(server.url, tmp_path, unanswerable=True), [passage(0)])
    assert [one.answer for one in written.examples] == ["At 09:00.", "The miller."]
    assert written.dropped == {
        "question points at its passage": 1,
        "pair without a question": 1,
        "pair without an answer": 1,
    }
    assert refusing.examples[-1].answer == "The documents do not say."


def test_wordings_of_a_question_are_one_fact(tmp_path):
    pairs = [{"questions": ["When does it open?", "What time does it open?"], "answer": "At 09:00."}]
    with chat_server(answer=lambda _: f"```json\n{json.dumps({'pairs': pairs})}\n```") as server:
        (written,) = write(writer_for(server.url, tmp_path, phrasings=2), [passage(0)])
    assert "2 different wordings" in server.asked[0]["messages"][1]["content"]
    assert len({one.fact for one in written.examples}) == 1
    assert len(written.examples) == 2


def test_the_questions_of_a_document_are_shared_by_its_passages(tmp_path):
    with chat_server() as server:
        written = write(
            writer_for(server.url, tmp_path, questions_per_doc=4),
            [passage(index, num_passages=20) for index in range(20)],
        )
    assert len(server.asked) == 5
    assert sum("not asked about" in reason for one in written for reason in one.dropped) == 15


def test_a_pace_spreads_requests_over_the_minute():
    pace = Pace(60)
    assert [pace.reserve(now=10.0, units=1) for _ in range(3)] == [0.0, 1.0, 2.0]
    assert pace.reserve(now=20.0, units=120) == 0.0
    assert pace.reserve(now=20.0, units=1) == 120.0
    assert [Pace(None).reserve(0.0, 10**6) for _ in range(2)] == [0.0, 0.0]


def test_requests_keep_to_the_pace(tmp_path, monkeypatch):
    waits = []
    sleep = asyncio.sleep

    async def record(delay, result=None):
        waits.append(delay)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", record)
    with chat_server() as server:
        write(writer_for(server.url, tmp_path, requests_per_minute=6), [passage(index) for index in range(3)])
    assert len(server.asked) == 3
    assert 25 < sum(waits) <= 30  # 0, 10 and 20 s, less the time in between


def test_the_digest_of_settings_follows_what_decides_the_pairs_and_nothing_else(tmp_path):
    def digest(**settings):
        return writer_for("http://localhost/v1", tmp_path, **settings)._provenance.settings

    assert digest() == digest(concurrency=3, requests_per_minute=1, timeout_s=1.0)
    assert len({digest(), digest(temperature=1.0), digest(questions_per_doc=3), digest(unanswerable=True)}) == 4


def test_the_estimate_counts_what_would_be_asked_and_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.md").write_text(f"# Mill {name}\n\nThe mill {name} opens at 09:00. Entry costs 4 euros.\n")
    with chat_server() as server:
        endpoint = {
            "base_url": server.url,
            "input_usd_per_million_tokens": 1.0,
            "output_usd_per_million_tokens": 10.0,
        }
        qa = {"model": "gpt", "phrasings": 1, "endpoint": endpoint}
        config = DatasetConfig.model_validate({"preprocessing": {"qa_generation": qa}})
        before = estimate_pairs(source, config, cache=str(tmp_path / "cache"))
        assert server.asked == []
        plan = plan_writer(
            choose_generator(config.preprocessing.qa_generation, base_model=None, environment={}),
            config.preprocessing.qa_generation,
            cache=str(tmp_path / "cache"),
            environment={},
        )
        text = "The mill a opens at 09:00. Entry costs 4 euros."
        write(plan.open(), [Passage("a.md", Digest.of(b""), "Mill a", ("Mill a",), text, 0, 1)])
        after = estimate_pairs(source, config, cache=str(tmp_path / "cache"))
    assert (before.passages, before.requests, before.stored, before.output_tokens) == (2, 2, 0, 240)
    assert before.cost_usd == pytest.approx((before.input_tokens + 10 * 240) / 1e6)
    assert (after.requests, after.stored) == (1, 1)


def test_without_an_endpoint_there_is_nothing_to_estimate(tmp_path):
    (tmp_path / "a.md").write_text("The mill opens at 09:00.")
    with pytest.raises(InputError, match="the pairs are written by rules"):
        estimate_pairs(tmp_path, DatasetConfig(), cache=str(tmp_path / "cache"))


def test_chinese_passages_are_asked_about_and_a_passage_without_facts_says_so(tmp_path):
    first = "\u56fe\u4e66\u9986\u65e9\u4e0a\u516b\u70b9\u5f00\u95e8\u3002"
    text = f"{first}\u6210\u4eba\u7968\u4ef7\u5341\u4e8c\u6b27\u5143\u3002"
    with chat_server() as server:
        chinese, empty = write(writer_for(server.url, tmp_path), [passage(0, text), passage(1, "Contact")])
    assert "Write 2 pairs" in server.asked[0]["messages"][1]["content"]
    assert chinese.examples
    assert empty.dropped == {"passage not asked about: it has no fact of three words": 1}


def test_the_estimate_has_invented_and_changed_examples_whoever_writes_the_pairs(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Mill\n\nThe mill opens at 09:00. Entry costs 4 euros.\n")
    rows = [{"question": f"When does shop {number} open?", "answer": f"At {number}."} for number in range(7)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "input_usd_per_million_tokens": 1.0}
    endpoint["output_usd_per_million_tokens"] = 10.0

    def estimate(name, **dataset):
        qa = {"qa_generation": {"model": "rules", "phrasings": 1, "endpoint": endpoint}}
        config = DatasetConfig.model_validate({"preprocessing": qa, **dataset})
        return estimate_pairs(tmp_path / name, config, cache=str(tmp_path / "cache"))

    invented = {"synthetic_generation": {"enabled": True, "base_model": "gpt-4"}}
    changed = {"augmentation": {"enabled": True, "methods": ["paraphrase", "back_translation"], "model": "gpt-4"}}
    found = estimate("docs", **invented)
    assert (found.model, found.requests, found.expansion_requests, found.output_tokens) == ("gpt-4", 0, 1, 180)
    assert found.cost_usd == pytest.approx((found.input_tokens + 10 * 180) / 1e6)
    assert estimate("docs", **changed).expansion_requests == 3 * 2
    assert estimate("docs", **invented, **changed).expansion_requests == 1 + 3 * 2
    logs = {"source": {"type": "conversation_logs"}}
    assert estimate("rows.jsonl", **logs, **invented, **changed).expansion_requests == 2 + 3 * 7
    with pytest.raises(InputError, match="no endpoint writes pairs"):
        estimate("rows.jsonl", **logs)


@pytest.mark.parametrize(
    ("language", "answer"), [("en", NOT_SAID["en"]), ("de", NOT_SAID["de"]), ("zh", NOT_SAID["zh"]), ("fi", None)]
)
def test_a_question_without_an_answer_is_refused_in_the_language_of_its_passage(tmp_path, language, answer):
    pair = {"pairs": [{"questions": ["?"], "answer": ""}]}
    with chat_server(answer=lambda _: json.dumps(pair)) as server:
        asked = replace(passage(0), language=language)
        (written,) = write(writer_for(server.url, tmp_path, unanswerable=True), [asked])
    assert [example.answer for example in written.examples] == ([answer] if answer else [])
    assert written.dropped == ({} if answer else {"no refusal is known in its language": 1})
