"""A replica's journal counts each request, keeps no text, stays small, and survives a crash with what it wrote."""

import asyncio
import datetime as dt
import json

import pytest
from fake_gateway import ANN, BEN, CHAT, Engine, Server, event, keyed_state, start, whole

from llamafarm_ray.config import Journal as Settings
from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry.usage import Amounts, WorkKey, read_ledger
from llamafarm_ray.serving.journal.blocks import BLOCK_REQUESTS, OTHER_VERSIONS, Blocks, read_blocks
from llamafarm_ray.serving.journal.files import JOURNAL_FOLDER, read_journal, remove_old
from llamafarm_ray.serving.journal.journal import Journal
from llamafarm_ray.serving.journal.ledger import Devices, ledger_rows
from llamafarm_ray.serving.journal.logprobs import AnswerLogprobs, ask_for_logprobs
from llamafarm_ray.serving.journal.sketch import Observation, Sketch, bucket
from llamafarm_ray.serving.journal.topics import topic_signs
from llamafarm_ray.serving.journal.usage import OTHERS, UsageKey, UsageTable, Used
from llamafarm_ray.serving.telemetry.outcome import End
from llamafarm_ray.storage import Location

PERSONAL = "My address is jane.doe@example.com, and where does the parcel go?"
ANSWERED = Observation(End.ANSWERED, 0.5, 0.0, 10, 20, "en", None, False, False)


class Says(Engine):
    """Answers with one text."""

    def __init__(self, text, **fields):
        super().__init__()
        self.text, self.fields = text, fields

    async def _answer(self, _path, body, send):
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        if not body.get("stream"):
            message = {"role": "assistant", "content": self.text, **self.fields}
            await whole(send, {"choices": [{"index": 0, "message": message}], "usage": usage})
            return
        await start(send, b"text/event-stream")
        for piece in ("", self.text[:5], self.text[5:]):
            await event(send, {"choices": [{"index": 0, "delta": {"content": piece}}]})
        await event(send, {"choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Tells(Engine):
    """Answers with tokens of the log-probabilities -0.5 and -1.5, where it is asked for them."""

    async def _answer(self, path, body, send):
        self.body = body
        asked, is_chat = body.get("logprobs"), path == "/v1/chat/completions"
        tells = asked is not None and asked is not False
        values = [-0.5, -1.5]
        told = (
            {"content": [{"token": "a", "logprob": one} for one in values]} if is_chat else {"token_logprobs": values}
        )
        if not body.get("stream"):
            choice = {"message": {"role": "assistant", "content": "aä"}} if is_chat else {"text": "aä"}
            text = dumped({"choices": [{"index": 0, **choice, "logprobs": told if tells else None}]})
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": text[:20], "more_body": True})
            await send({"type": "http.response.body", "body": text[20:]})
            return
        await start(send, b"text/event-stream")
        for value, index in ((-0.5, 0), (-9.0, 1), (-1.5, 0)):
            told = {"content": [{"logprob": value}]} if is_chat else {"token_logprobs": [value]}
            choice = {"index": index, "delta": {"content": "a"}, "text": "a", "logprobs": told if tells else None}
            body = b"data: " + dumped({"choices": [choice]}) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def dumped(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def journal_of(home, clock=lambda: 1_800_000_000.0, *, tells_logprobs=False, **settings):
    return Journal(
        Location(str(home)),
        Settings(**settings),
        application="app",
        devices=Devices(2, 1),
        tells_logprobs=tells_logprobs,
        clock=clock,
    )


def asked(home, engine, body, *, journal=None, key=None, **options):
    """Ask once; return what the journal's file has of it."""
    journal = journal or journal_of(home)
    server = Server(engine=engine, journal=journal, home=str(home), **options)
    assert server.post("/v1/chat/completions", body, key=key).status_code == 200
    asyncio.run(journal.write())
    (page,) = read_journal(Location(str(home)))
    return page


def only(page, ref="bot:1.0.0"):
    (block,) = page.blocks[ref]
    return block


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "fields", "counts"),
    [
        ("It goes to the shop.", {}, (1, 0, 0)),
        ("", {}, (1, 1, 0)),
        (" \n ", {}, (1, 1, 0)),
        ("I'm sorry, but I can't help with that.", {}, (1, 0, 1)),
    ],
)
def test_answers_are_read_on_their_way_whole_or_streamed(tmp_path, stream, text, fields, counts):
    block = only(asked(tmp_path, Says(text, **fields), {**CHAT, "stream": stream}))
    assert (block.num_checked, block.num_empty, block.num_declined) == counts
    assert (block.num_answered, sum(block.prompt_tokens.values()), sum(block.answer_tokens.values())) == (1, 1, 1)


def test_of_several_answers_in_a_stream_the_first_is_read(tmp_path):
    class Two(Engine):
        async def _answer(self, _path, _body, send):
            await start(send, b"text/event-stream")
            for index, content in ((0, "I'm"), (1, "Surely, it goes"), (0, " sorry, but I can't help."), (1, " on.")):
                await event(send, {"choices": [{"index": index, "delta": {"content": content}}]})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    assert only(asked(tmp_path, Two(), {**CHAT, "stream": True, "n": 2})).num_declined == 1


def test_a_stream_that_talks_of_its_own_format_is_read_as_text(tmp_path):
    block = only(asked(tmp_path, Says('Say {"content": "I\'m sorry, \\"no\\""} \U0001f999'), {**CHAT, "stream": True}))
    assert (block.num_checked, block.num_empty) == (1, 0)


def test_a_call_of_a_tool_is_no_empty_answer(tmp_path):
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    assert only(asked(tmp_path, Says("", tool_calls=calls), CHAT)).num_empty == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_gets_what_it_would_get_without_a_journal(tmp_path, stream):
    body = {**CHAT, "stream": stream}
    plain = Server(engine=Says("It goes to the shop.")).post("/v1/chat/completions", body)
    kept = Server(engine=Says("It goes to the shop."), journal=journal_of(tmp_path)).post("/v1/chat/completions", body)
    assert kept.content == plain.content


def test_nothing_of_a_text_is_kept(tmp_path):
    body = {**CHAT, "messages": [{"role": "user", "content": PERSONAL}]}
    asked(tmp_path, Says("Your parcel goes to Springfield."), body)
    (file,) = (tmp_path / JOURNAL_FOLDER).rglob("*.json")
    written = file.read_text(encoding="utf-8").casefold()
    for word in ("jane", "parcel", "springfield", "address"):
        assert word not in written


def test_samples_are_kept_only_where_asked_for_and_redacted(tmp_path):
    body = {**CHAT, "messages": [{"role": "user", "content": PERSONAL}]}
    engine = Says("Write to jane.doe@example.com about it.")
    page = asked(tmp_path, engine, body, journal=journal_of(tmp_path, sample_rate=1.0))
    (sample,) = page.samples
    assert (sample.ref, sample.num_tokens, sample.is_redacted) == ("bot:1.0.0", 3, True)
    assert "[EMAIL]" in sample.question
    assert "[EMAIL]" in sample.answer
    (file,) = (tmp_path / JOURNAL_FOLDER).rglob("*.json")
    assert "jane" not in file.read_text(encoding="utf-8")


COMPLETION = {"model": "bot", "prompt": "Where?"}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]


@pytest.mark.parametrize(("route", "body"), ROUTES)
def test_sampled_answers_have_their_loss_sketched_and_the_client_sees_none_of_it(tmp_path, route, body):
    plain = Server(engine=Tells()).post(route, dict(body))
    journal = journal_of(tmp_path, sample_rate=1.0, tells_logprobs=True)
    sampled = Server(engine=Tells(), journal=journal, home=str(tmp_path)).post(route, dict(body))
    assert sampled.content == plain.content
    assert sampled.headers.get("content-length") == plain.headers.get("content-length")
    asyncio.run(journal.write())
    (page,) = read_journal(Location(str(tmp_path)))
    assert only(page).answer_loss == {bucket(1.0): 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "body", "asks"), [(*ROUTES[0], True), (*ROUTES[1], 3)])
def test_a_client_that_asks_for_log_probabilities_gets_them(tmp_path, route, body, asks, stream):
    body = {**body, "stream": stream, "logprobs": asks}
    plain = Server(engine=Tells()).post(route, dict(body))
    journal = journal_of(tmp_path, sample_rate=1.0, tells_logprobs=True)
    engine = Tells()
    sampled = Server(engine=engine, journal=journal, home=str(tmp_path)).post(route, dict(body))
    assert sampled.content == plain.content
    assert b"-1.5" in sampled.content
    assert engine.body["logprobs"] == asks
    asyncio.run(journal.write())
    (page,) = read_journal(Location(str(tmp_path)))
    assert only(page).answer_loss == {bucket(1.0): 1}


@pytest.mark.parametrize(
    ("more", "settings"),
    [
        ({}, {"tells_logprobs": True}),
        ({}, {"sample_rate": 1.0}),
        ({"echo": True}, {"sample_rate": 1.0, "tells_logprobs": True}),
        ({"top_logprobs": None}, {"sample_rate": 1.0, "tells_logprobs": True}),
        ({"stream": True}, {"sample_rate": 1.0, "tells_logprobs": True}),
        ({"logprob_token_ids": [1]}, {"sample_rate": 1.0, "tells_logprobs": True}),
    ],
)
def test_no_engine_is_asked_for_log_probabilities_of_what_is_not_sampled(tmp_path, more, settings):
    engine = Tells()
    journal = journal_of(tmp_path, **settings)
    Server(engine=engine, journal=journal, home=str(tmp_path)).post("/v1/completions", {**COMPLETION, **more})
    assert "logprobs" not in engine.body


@pytest.mark.parametrize("route", [route for route, _ in ROUTES])
@pytest.mark.parametrize("given", [None, 1, "true", "abc", False, 5])
def test_a_request_for_log_probabilities_reaches_the_engine_as_the_client_wrote_it(route, given):
    body = {"logprobs": given}
    ask_for_logprobs(route, body)
    is_off = given is False and route == "/v1/chat/completions"
    assert body == ({"logprobs": True} if is_off else {"logprobs": given})


def test_tokens_without_a_log_probability_count_for_nothing():
    reader = AnswerLogprobs(hide=False)
    told = [{"token_logprobs": [-0.5, -9999.0, None, -1.5]}, {"token_logprobs": 3}]
    body = json.dumps({"choices": [{"index": 0, "logprobs": one} for one in told]}).encode()
    began = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    sent = [one for part in (began, {"type": "http.response.body", "body": body}) for one in reader.taken(part)]
    assert sent[1]["body"] == body
    assert reader.mean == -1.0


def test_a_sampled_answer_that_fails_or_tells_nothing_has_no_loss(tmp_path):
    journal = journal_of(tmp_path, sample_rate=1.0, tells_logprobs=True)
    page = asked(tmp_path, Says("It goes to the shop."), CHAT, journal=journal)
    assert (only(page).answer_loss, only(page).num_checked) == ({}, 1)
    assert len(page.samples) == 1


def test_usage_is_counted_by_version_key_and_route(tmp_path):
    page = asked(tmp_path, Says("A plant."), {**CHAT, "model": "team/bot:1.0.0"}, state=keyed_state(), key=BEN)
    ((key, used),) = page.usage.rows.items()
    assert key == UsageKey("team/bot:1.0.0", "ben", "/v1/chat/completions")
    assert (used.num_requests, used.prompt_tokens, used.answer_tokens, used.last_s) == (1, 7, 3, 1_800_000_000.0)
    assert (page.application, page.num_cpus, page.num_gpus) == ("app", 2, 1)


def test_the_ledger_gets_the_models_tokens_and_the_replicas_time(tmp_path):
    now = [dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC).timestamp()]
    journal = journal_of(tmp_path, clock=lambda: now[0])
    day, home = dt.date(2026, 11, 29), Location(str(tmp_path))
    asyncio.run(journal.write())
    now[0] += 660
    asyncio.run(journal.write())
    assert read_ledger(home, day, day) == {WorkKey("", "app", "idle", "GPU"): Amounts(660.0)}
    body = {**CHAT, "model": "team/bot:1.0.0"}
    asked(tmp_path, Says("A plant."), body, state=keyed_state(), key=BEN, journal=journal)
    assert read_ledger(home, day, day) == {WorkKey("team", "bot", "serve", "GPU"): Amounts(660.0, 10)}


def test_a_replicas_time_is_shared_out_by_tokens():
    rows = {
        UsageKey("a:1.0.0", "ann", "/v1/chat/completions"): Used(1, 0, 10, 0),
        UsageKey("a:1.1.0", "ben", "/v1/chat/completions"): Used(1, 0, 10, 5),
        UsageKey("org/tiny", "ben", "/v1/chat/completions"): Used(1, 0, 0, 5),
    }
    found = dict(ledger_rows(rows, Devices(8, 2, "L4"), 20.0, "app"))
    assert found == {
        WorkKey("", "a", "serve", "L4"): Amounts(pytest.approx(30.0), 25),
        WorkKey("org", "tiny", "serve", "L4"): Amounts(pytest.approx(10.0), 5),
    }


def test_ratings_are_counted(tmp_path):
    journal = journal_of(tmp_path)
    server = Server(state=keyed_state(), home=str(tmp_path), journal=journal)
    said = {"model": "bot:1.0.0", "messages": [{"role": "user", "content": "A?"}], "answer": "B."}
    for thumb in ("up", "down"):
        assert server.post("/v1/feedback", {**said, "thumb": thumb}, key=ANN).status_code == 201
    asyncio.run(journal.write())
    (page,) = read_journal(Location(str(tmp_path)))
    assert (only(page).num_rated, only(page).num_disliked) == (2, 1)


def test_without_sketches_only_usage_is_counted(tmp_path):
    page = asked(tmp_path, Says("A plant."), CHAT, journal=journal_of(tmp_path, sketches=False))
    assert page.blocks == {}
    assert len(page.usage.rows) == 1


def test_a_replica_has_one_file_a_day_however_often_it_writes(tmp_path):
    now = [dt.datetime(2026, 11, 29, 23, 59, tzinfo=dt.UTC).timestamp()]
    journal = journal_of(tmp_path, clock=lambda: now[0])
    for _ in range(4):
        journal.rated("bot:1.0.0", 1.0)
        asyncio.run(journal.write())
        now[0] += 30
    pages = list(read_journal(Location(str(tmp_path))))
    assert [(str(page.day), page.blocks["bot:1.0.0"][0].num_rated) for page in pages] == [
        ("2026-11-29", 2),
        ("2026-11-30", 2),
    ]
    assert pages[1].start_s == dt.datetime(2026, 11, 30, tzinfo=dt.UTC).timestamp()
    assert remove_old(Location(str(tmp_path)), dt.date(2026, 11, 30)) == 1
    assert [str(page.day) for page in read_journal(Location(str(tmp_path)))] == ["2026-11-30"]


def test_what_could_not_be_written_is_written_later(tmp_path, caplog):
    journal = journal_of(tmp_path)
    journal.rated("bot:1.0.0", 1.0)
    write = journal._home.write

    def full(*_):
        raise StorageError("no space left")

    journal._home.write = full
    for _ in range(2):
        asyncio.run(journal.write())
    assert caplog.text.count("no space left") == 1
    journal._home.write = write
    asyncio.run(journal.write())
    assert len(list(read_journal(Location(str(tmp_path))))) == 1


def test_a_day_that_could_not_be_written_takes_nothing_of_the_next_along(tmp_path):
    now = [dt.datetime(2026, 11, 29, 23, 59, tzinfo=dt.UTC).timestamp()]
    journal = journal_of(tmp_path, clock=lambda: now[0])
    write = journal._home.write

    def full(name, data):
        if "/29/" in name:
            raise StorageError("no space left")
        write(name, data)

    journal.rated("bot:1.0.0", 1.0)
    journal._home.write = full
    now[0] += 120
    for _ in range(2):
        journal.rated("bot:1.0.0", 1.0)
        asyncio.run(journal.write())
    journal._home.write = write
    asyncio.run(journal.write())
    pages = list(read_journal(Location(str(tmp_path))))
    assert [page.blocks["bot:1.0.0"][0].num_rated for page in pages] == [1, 2]
    assert pages[0].end_s == pages[1].start_s


def test_a_damaged_file_is_named_and_passed_over(tmp_path, caplog):
    asked(tmp_path, Says("A plant."), CHAT)
    folder = next((tmp_path / JOURNAL_FOLDER).rglob("*.json")).parent
    (folder / "torn.json").write_bytes(b'{"format": 1, "blo')
    (folder / "newer.json").write_bytes(b'{"format": 99}')
    (folder / "odd.json").write_text(json.dumps({"format": 1, "application": "a", "blocks": {"x": [{}]}}))
    assert len(list(read_journal(Location(str(tmp_path))))) == 1
    assert all(name in caplog.text for name in ("torn.json", "newer.json", "odd.json"))


def test_blocks_stay_few_and_lose_no_request():
    blocks = Blocks(max_blocks=40, max_versions=2)
    for number in range(100 * BLOCK_REQUESTS):
        blocks.add("a:1.0.0", ANSWERED, number)
    for name in ("b:1.0.0", "c:1.0.0", "d:1.0.0"):
        blocks.add(name, ANSWERED, 1e6)
    assert blocks.num_blocks <= 42
    assert sum(block.num_requests for block in blocks.of("a:1.0.0")) == 100 * BLOCK_REQUESTS
    assert sum(block.num_requests for block in blocks.of(OTHER_VERSIONS)) == 2
    assert [block.num_requests for block in blocks.of("a:1.0.0")[-10:]] == [BLOCK_REQUESTS] * 10


def test_blocks_are_read_as_they_were_written():
    blocks = Blocks()
    signs = topic_signs("where does the parcel go")
    blocks.add("a:1.0.0", Observation(End.ANSWERED, 0.5, 0.1, 10, 0, "en", signs, True, False), 5.0)
    blocks.add("a:1.0.0", Observation(End.FAILED, 0.5), 6.0)
    (read,) = read_blocks(json.loads(blocks.to_json()))["a:1.0.0"]
    (made,) = blocks.of("a:1.0.0")
    blocks.rate("a:1.0.0", 0.0, 7.0)
    assert read_blocks(json.loads(blocks.to_json()))["a:1.0.0"][0].num_disliked == 1
    made.num_rated = made.num_disliked = 0
    made.end_s = 6.0
    assert read.to_dict() == made.to_dict()
    assert (read + Sketch()).to_dict() == made.to_dict()


def test_the_table_of_usage_stays_small_and_loses_no_request():
    table = UsageTable(max_rows=10)
    for number in range(50):
        table.add(UsageKey(f"bot:{number % 3}.0.0", f"key{number}", "/v1/completions"), Used(1, 0, 5, 5, 1.0, 3600.0))
    assert len(table.rows) <= 11
    assert sum(used.num_requests for used in table.rows.values()) == 50
    assert any(key.principal == OTHERS for key in table.rows)
    assert table.hours_s[1] == 50.0


def test_texts_on_one_topic_share_signs_and_texts_without_words_have_none():
    one = topic_signs("Where is the parcel with my order?")
    same = topic_signs("The parcel of this order, where is it?")
    other = topic_signs("How often does lavender need pruning?")
    assert (one == same).mean() > (one == other).mean()
    assert topic_signs("?! 12 3.4") is None
    assert topic_signs("注文した荷物はどこですか") is not None
