"""What users say of answers is kept before it is acknowledged, with the version that answered and who said it."""

import asyncio
import json
import threading

import pytest
from fake_gateway import ANN, BEN, BOT, ONE, TWO, Server, is_openai_error, keyed_state
from patience import patience

from llamafarm_ray.data.feedback import Feedback, judgement_rows, preference_rows
from llamafarm_ray.errors import StorageError
from llamafarm_ray.serving.gateway.feedback import FeedbackLog
from llamafarm_ray.serving.http.errors import LimitError
from llamafarm_ray.storage import Location

SAID = {
    "model": f"team/bot:1.0.0#{TWO.short}",
    "response_id": "chatcmpl-1",
    "messages": [{"role": "user", "content": "A llama?"}],
    "answer": "A plant.",
    "thumb": "down",
    "correction": "An animal.",
}


def kept(home):
    """The records below a home, file by file."""
    files = sorted((home / "feedback").rglob("*"))
    return [
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files if file.is_file()
    ]


def say(server, *, key=BEN, **fields):
    return server.post("/v1/feedback", {**SAID, **fields}, key=key)


@pytest.fixture
def server(tmp_path):
    return Server(state=keyed_state(), home=str(tmp_path))


def test_what_was_said_is_kept_with_the_version_that_answered_and_who_said_it(server, tmp_path):
    response = say(server, comment="wrong kingdom")
    assert response.status_code == 201
    ((record,),) = kept(tmp_path)
    told = response.json()
    assert told == {"object": "feedback", "id": record["id"], "version": "team/bot:1.0.0", "digest": TWO}
    assert {name: record[name] for name in ("version", "digest", "principal", "comment")} == {
        "version": "team/bot:1.0.0",
        "digest": TWO,
        "principal": "ben",
        "comment": "wrong kingdom",
    }
    assert {name: record[name] for name in SAID if name != "model"} == {k: v for k, v in SAID.items() if k != "model"}
    assert server.engine.seen == []


def test_it_becomes_rows_to_train_on(server, tmp_path):
    say(server)
    say(server, answer="An animal!", thumb="up", correction=None)
    records = [Feedback.of(record) for batch in kept(tmp_path) for record in batch]
    assert [(row["chosen"], row["rejected"]) for row in preference_rows(records).rows] == [("An animal.", "A plant.")]
    assert sorted((row["messages"][-1]["content"], row["label"]) for row in judgement_rows(records).rows) == [
        ("A plant.", False),
        ("An animal!", True),
        ("An animal.", True),
    ]


CHOICE = {"answer": None, "thumb": None, "correction": None, "chosen": "An animal.", "rejected": "A plant."}


def test_a_choice_between_two_answers_is_kept_and_becomes_rows(server, tmp_path):
    assert say(server, **CHOICE).status_code == 201
    ((record,),) = kept(tmp_path)
    assert {"answer", "thumb", "correction"}.isdisjoint(record)
    records = [Feedback.of(record)]
    assert [(row["chosen"], row["rejected"]) for row in preference_rows(records).rows] == [("An animal.", "A plant.")]
    assert sorted(row["label"] for row in judgement_rows(records).rows) == [False, True]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"answer": "A plant."}, "not both"),
        ({"thumb": "up"}, "not both"),
        ({"rejected": None}, "give both"),
        ({"chosen": " "}, "give both"),
        ({"rejected": "An animal."}, "same answer"),
        ({"chosen": None, "rejected": None}, "'chosen' and 'rejected'"),
    ],
)
def test_a_choice_that_says_nothing_is_refused(server, tmp_path, fields, says):
    response = say(server, **CHOICE | fields)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("model", "version", "digest"),
    [(BOT, "bot:1.0.0", ONE), ("bot:1.0.0", "bot:1.0.0", ONE), ("tiny", "tiny", None)],
)
def test_the_responses_own_names_are_understood(server, tmp_path, model, version, digest):
    assert say(server, key=ANN, model=model).status_code == 201
    ((record,),) = kept(tmp_path)
    assert (record["version"], record["digest"]) == (version, digest)


@pytest.mark.parametrize("model", ["bot", "bot@production"])
def test_an_alias_says_not_who_answered(server, tmp_path, model):
    response = say(server, key=ANN, model=model)
    assert response.status_code == 400
    assert f"such as {BOT}" in response.json()["error"]["message"]
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": None}, "model: "),
        ({"model": 5}, "model: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "root", "content": ""}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": ["text"]}]}, "messages.0.content: "),
        ({"messages": [{"role": "user", "content": "", "name": "x"}]}, "messages.0.name: "),
        ({"answer": ""}, "answer: "),
        ({"answer": None}, "give an 'answer'"),
        ({"thumb": "sideways"}, "thumb: "),
        ({"thumb": None, "correction": None}, "give a 'rating', a 'thumb' or a 'correction'"),
        ({"thumb": None, "correction": "  "}, "give a 'rating', a 'thumb' or a 'correction'"),
        ({"rating": 1.0}, "not both"),
        ({"thumb": None, "rating": 1.5}, "rating: "),
        ({"thumb": None, "rating": -1}, "rating: "),
        ({"thumb": None, "rating": "good"}, "rating: "),
        ({"thumb": None, "rating": True}, "rating: "),
        ({"principal": "ann"}, "principal: "),
        ({"digest": "sha256:0"}, "digest: "),
        ({"response_id": "x" * 300}, "response_id: "),
    ],
)
def test_what_makes_no_sense_is_refused(server, tmp_path, fields, says):
    response = say(server, **fields)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert is_openai_error(response)
    assert kept(tmp_path) == []


def test_feedback_on_a_model_of_another_namespace_is_refused(server, tmp_path):
    assert say(server, model="bot:1.0.0").status_code == say(server, model="nothing:1.0.0").status_code == 403
    assert say(server, key=None).status_code == 401
    assert kept(tmp_path) == []


def test_feedback_on_what_never_was_is_refused(server):
    assert say(server, model="team/bot:7.0.0").status_code == 404
    assert say(server, model="team/bot:1.0.0#000000000000").status_code == 404


class Store(Location):
    """A folder that takes its time, or fails."""

    def __init__(self, uri):
        super().__init__(uri)
        self.is_open = threading.Event()
        self.failures = []
        self.sizes = []

    def create(self, name, data):
        self.is_open.wait(patience(10))
        if self.failures:
            raise self.failures.pop(0)
        self.sizes.append(len(data))
        super().create(name, data)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_nothing_is_acknowledged_before_it_is_durable(store, tmp_path):
    async def scenario():
        log = FeedbackLog(store, linger_s=0.0)
        adding = asyncio.create_task(log.add({"n": 1}))
        done, _ = await asyncio.wait({adding}, timeout=0.05)
        assert not done
        assert kept(tmp_path) == []
        store.is_open.set()
        await adding
        assert kept(tmp_path) == [[{"n": 1}]]

    asyncio.run(scenario())


def test_what_comes_together_is_one_object_and_what_comes_meanwhile_the_next(store, tmp_path):
    async def scenario():
        log = FeedbackLog(store, linger_s=0.01)
        first = [asyncio.create_task(log.add({"n": n})) for n in range(3)]
        await asyncio.sleep(0.05)  # these are being written
        second = [asyncio.create_task(log.add({"n": n})) for n in range(3, 5)]
        await asyncio.sleep(0)
        store.is_open.set()
        await asyncio.gather(*first, *second)

    asyncio.run(scenario())
    assert [[record["n"] for record in batch] for batch in kept(tmp_path)] == [[0, 1, 2], [3, 4]]


def test_a_full_batch_does_not_wait(store):
    store.is_open.set()

    async def scenario():
        log = FeedbackLog(store, linger_s=60.0)
        await asyncio.gather(*(log.add({"text": "x" * 300_000}) for _ in range(4)))

    asyncio.run(asyncio.wait_for(scenario(), 5))
    assert len(store.sizes) == 1


def test_a_store_that_fails_says_so_to_each_and_the_next_batch_is_written(store, tmp_path):
    store.is_open.set()
    store.failures = [StorageError("The disk is full.")]

    async def scenario():
        log = FeedbackLog(store, linger_s=0.0)
        said = await asyncio.gather(log.add({"n": 1}), log.add({"n": 2}), return_exceptions=True)
        assert [str(error) for error in said] == ["The disk is full."] * 2
        await log.add({"n": 3})

    asyncio.run(scenario())
    assert kept(tmp_path) == [[{"n": 3}]]


def test_a_store_that_had_it_and_lost_its_answer_has_it(store, tmp_path):
    store.is_open.set()
    create = store.create

    def create_and_lose_the_answer(name, data):
        create(name, data)
        create(name, data)

    store.create = create_and_lose_the_answer
    asyncio.run(FeedbackLog(store, linger_s=0.0).add({"n": 1}))
    assert kept(tmp_path) == [[{"n": 1}]]


def test_more_than_may_wait_is_refused_until_there_is_room(store):
    async def scenario():
        log = FeedbackLog(store, linger_s=0.0, max_pending_bytes=100)
        adding = asyncio.create_task(log.add({"text": "x" * 60}))
        await asyncio.sleep(0.01)
        with pytest.raises(LimitError, match="waits to be written"):
            await log.add({"text": "x" * 60})
        store.is_open.set()
        await adding
        await log.add({"text": "x" * 60})

    asyncio.run(scenario())


def test_a_client_that_goes_away_takes_nothing_back(store, tmp_path):
    async def scenario():
        log = FeedbackLog(store, linger_s=0.0)
        leaving, staying = (asyncio.create_task(log.add({"n": n})) for n in (1, 2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        store.is_open.set()
        await staying
        await log.close()

    asyncio.run(scenario())
    assert kept(tmp_path) == [[{"n": 1}, {"n": 2}]]


def test_many_replicas_write_at_once_and_nothing_is_lost(tmp_path):
    async def scenario():
        logs = [FeedbackLog(Location(str(tmp_path)), linger_s=0.001) for _ in range(4)]
        await asyncio.gather(*(log.add({"n": [i, n]}) for i, log in enumerate(logs) for n in range(50)))

    asyncio.run(scenario())
    found = sorted(tuple(record["n"]) for batch in kept(tmp_path) for record in batch)
    assert found == [(i, n) for i in range(4) for n in range(50)]
