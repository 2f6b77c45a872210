"""``auto`` across applications: who knows of whom, which one is chosen, and how the client gets there, once."""

import asyncio
from dataclasses import replace

import httpx
import openai
import pytest
import requests
from asgi_server import listening
from fake_gateway import ANN, BASE, BEN, ONE, TWO, Server, adapter, is_openai_error, models_state, principal

from llamafarm_ray.client import select_model_async
from llamafarm_ray.config import Limits
from llamafarm_ray.registry.events import AliasMoved
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.routing.traffic_split import NOBODY
from llamafarm_ray.serving.selection.catalog import VECTORS, WRITES
from llamafarm_ray.serving.selection.latencies import Latencies
from llamafarm_ray.serving.selection.peers import Figures, Peer, PeerModels
from llamafarm_ray.types import Digest

LARGE = Digest.of(b"large")
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "A llama?"}]}
POET = adapter("poet", "2.0.0", TWO, base=LARGE).model_copy(
    update={"capabilities": ("rhymes",), "metrics": {"accuracy": 0.9}, "resources": {"memory_bytes": 5e9}}
)
TEAMS = adapter("team/poet", "1.0.0", ONE, base=LARGE).model_copy(update={"capabilities": ("odes",)})
POETS = (
    POET,
    TEAMS,
    AliasMoved(model="poet", alias="production", version="2.0.0"),
    AliasMoved(model="team/poet", alias="production", version="1.0.0"),
)
KEYS = (principal("ann", ANN, {"*": Role.ADMIN}), principal("ben", BEN, {"team": Role.VIEWER}))
STATE = models_state(*POETS)


class Cluster:
    """Two applications of one registry, ``tiny`` at ``/`` and ``large`` at ``/large``, routed as Serve does."""

    def __init__(self, state=STATE, roots=("", "/large"), **options):
        self.roots = roots
        self.servers = [Server(state=state, base=base, **options) for base in (("tiny", BASE), ("large", LARGE))]
        self.paths = []
        self.tell()

    def tell(self, *figures):
        """Have each application know what the other's controller says."""
        tiny, large = figures or (Figures(WRITES), Figures(WRITES))
        self.servers[0].models.peers = (Peer("b", self.roots[1], "large", LARGE, figures=large),)
        self.servers[1].models.peers = (Peer("a", self.roots[0], "tiny", BASE, figures=tiny),)
        for server, own in zip(self.servers, (tiny, large), strict=True):
            server.models.latencies = own.latencies

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        if scope["path"] == "/-/routes":
            routes = b'{"/": "a", "/large": "b"}'
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": routes})
            return
        root, server = max(
            (one for one in zip(self.roots, self.servers, strict=True) if scope["path"].startswith(f"{one[0]}/")),
            key=lambda one: len(one[0]),
        )
        await server.gateway({**scope, "root_path": root}, receive, send)

    def post(self, path, body=CHAT, *, key=None, follow=True, headers=None):
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}

        async def ask():
            async with self.client(follow_redirects=follow) as client:
                return await client.post(path, json=body, headers=headers)

        return asyncio.run(ask())

    def client(self, **options):
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self), base_url="http://localhost", **options)


def wants(**limits):
    return {f"x-llamafarm-{name.replace('_', '-')}": str(value) for name, value in limits.items()}


@pytest.mark.parametrize(
    ("roots", "path", "location"),
    [
        (("", "/large"), "/v1/chat/completions", "/large/v1/chat/completions?auto=within"),
        (("/tiny", "/large"), "/tiny/v1/chat/completions", "/large/v1/chat/completions?auto=within"),
        (("/tiny", ""), "/tiny/v1/completions", "/v1/completions?auto=within"),
        (("", "/large"), "/tokenize", "/large/tokenize?auto=within"),
    ],
)
def test_what_only_another_application_has_is_asked_for_there_by_its_path(roots, path, location):
    cluster = Cluster(roots=roots)
    asked = {**CHAT, "prompt": "A llama?"}
    told = cluster.post(path, asked, follow=False, headers=wants(task="rhymes"))
    assert told.status_code == 307
    assert told.headers["location"] == location
    assert told.headers["x-llamafarm-model"] == "poet:2.0.0"
    assert is_openai_error(told)
    assert told.json()["error"]["code"] == "served_elsewhere"
    tiny, large = cluster.servers
    assert tiny.engine.seen == large.engine.seen == []
    assert tiny.meters.counters == {}
    answered = cluster.post(path, asked, headers=wants(task="rhymes"))
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-llamafarm-model"] == "poet:2.0.0"
    (seen,) = large.engine.seen
    assert seen.body["messages"] == CHAT["messages"]


@pytest.fixture
def listening_cluster():
    """Both, with Ann's and Ben's keys, behind a real HTTP server: what was deployed, and its address."""
    cluster = Cluster(models_state(*POETS, *KEYS))
    with listening(cluster) as port:
        yield cluster, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("client", ["openai", "langchain", "requests"])
def test_clients_get_there_as_they_come_with_their_key_and_their_body(listening_cluster, client):
    cluster, url = listening_cluster
    asked = {"model": "auto", "prompt": "A llama?"}
    if client == "openai":
        with openai.OpenAI(base_url=f"{url}/v1", api_key=ANN) as ours:
            answered = ours.completions.with_raw_response.create(**asked, extra_headers=wants(task="rhymes"))
        assert answered.headers["x-llamafarm-model"] == "poet:2.0.0"
        assert answered.parse().model.startswith("poet:2.0.0#")
    elif client == "langchain":
        options = {"base_url": f"{url}/v1", "api_key": ANN, "default_headers": wants(task="rhymes")}
        from langchain_openai import OpenAI

        assert OpenAI(model="auto", **options).invoke("A llama?").startswith(" 0 1")
    else:
        headers = {"Authorization": f"Bearer {ANN}", **wants(task="rhymes")}
        answered = requests.post(f"{url}/v1/completions", json=asked, headers=headers, timeout=30)
        assert answered.headers["x-llamafarm-model"] == "poet:2.0.0"
    assert cluster.paths == ["/v1/completions", "/large/v1/completions"]
    assert cluster.servers[1].engine.seen[0].body["prompt"] in ("A llama?", ["A llama?"])


def test_an_own_model_comes_before_anothers_that_is_as_good():
    cluster = Cluster()
    assert cluster.post("/v1/chat/completions", headers=wants(task="chat")).headers["x-llamafarm-model"] == "bot:1.0.0"
    assert cluster.paths == ["/v1/chat/completions"]
    there = cluster.post("/large/v1/chat/completions", headers=wants(task="chat"))
    assert there.headers["x-llamafarm-model"] == "large"


@pytest.mark.parametrize(
    ("limits", "version"),
    [
        ({}, "bot:1.0.0"),
        ({"max_latency_ms": 60}, "large"),
        ({"task": "rhymes", "max_memory_bytes": 5e9}, "poet:2.0.0"),
        ({"task": "rhymes", "max_memory_bytes": 4e9}, None),
        ({"task": "rhymes", "min_quality": 0.95}, None),
        ({"task": "rhymes", "max_latency_ms": 40}, None),
    ],
)
def test_what_was_measured_there_and_every_limit_counts_wherever_one_asks(limits, version):
    cluster = Cluster()
    cluster.tell(Figures(WRITES, Latencies({}, 70.0)), Figures(WRITES, Latencies({}, 50.0)))
    for path in ("/v1/chat/completions", "/large/v1/chat/completions"):
        if not limits and path.startswith("/large"):
            continue  # as good as each other: each answers itself
        answered = cluster.post(path, headers=wants(**limits))
        assert answered.headers.get("x-llamafarm-model") == version, answered.text
        assert answered.status_code == (200 if version else 404)


@pytest.mark.parametrize("limits", [{"task": "rhymes"}, {"task": "rhymes", "min_quality": 0.8}, {"max_latency_ms": 60}])
def test_the_agents_client_chooses_the_same(limits, monkeypatch):
    cluster = Cluster()
    cluster.tell(Figures(WRITES, Latencies({}, 90.0)), Figures(WRITES, Latencies({}, 50.0)))
    client = cluster.client()
    monkeypatch.setattr(httpx, "AsyncClient", lambda **_options: client)
    chosen = asyncio.run(select_model_async(url="http://localhost", **limits))
    assert chosen.base_url == "http://localhost/large/v1"
    monkeypatch.undo()
    answered = cluster.post("/v1/chat/completions", headers=wants(**limits))
    if "task" in limits:
        assert answered.headers["x-llamafarm-model"] == chosen.version
    assert cluster.paths[-1] == "/large/v1/chat/completions"


def test_two_that_each_take_the_other_for_the_better_one_send_a_request_on_once():
    cluster = Cluster()
    cluster.tell(Figures(WRITES, Latencies({}, 10.0)), Figures(WRITES, Latencies({}, 10.0)))
    for server in cluster.servers:  # as each measures itself now; what it told of itself is older
        server.models.latencies = Latencies({}, 500.0)
    answered = cluster.post("/v1/chat/completions", headers=wants(task="chat"))
    assert answered.headers["x-llamafarm-model"] == "large"
    assert cluster.paths == ["/v1/chat/completions", "/large/v1/chat/completions"]


def test_who_was_sent_on_and_fits_no_more_is_told_so_by_the_other_one():
    cluster = Cluster()
    cluster.servers[1].models.latencies = Latencies({}, 900.0)
    cluster.servers[0].models.peers = (
        Peer("b", "/large", "large", LARGE, figures=Figures(WRITES, Latencies({}, 50.0))),
    )
    refused = cluster.post("/v1/chat/completions", headers=wants(max_latency_ms=100))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_model_fits")
    assert len(cluster.paths) == 2


@pytest.mark.parametrize(
    ("model", "query", "status"),
    [
        ("auto", "auto=within", 200),
        ("auto", "x=1", 200),
        ("bot", "x=1", 200),
        ("auto", "api-version=1&auto=within", 200),
        ("auto", "auto=elsewhere", 400),
        ("auto", "auto=", 400),
        ("auto", "auto", 400),
        ("auto", "auto=within&auto=within", 400),
        ("bot", "auto=within", 400),
        ("bot", "auto=", 400),
    ],
)
def test_the_query_is_for_auto_and_says_one_thing(model, query, status):
    server = Server()
    answered = server.post(f"/v1/chat/completions?{query}", {**CHAT, "model": model})
    assert answered.status_code == status, answered.text
    assert len(server.engine.seen) == (status == 200)


def test_a_request_that_is_to_stay_is_told_of_nothing_elsewhere():
    cluster = Cluster()
    refused = cluster.post("/v1/chat/completions?auto=within", headers=wants(task="rhymes"))
    assert refused.status_code == 404
    assert "poet" not in refused.text


def test_a_key_is_sent_on_to_what_it_may_use_only():
    cluster = Cluster(models_state(*POETS, *KEYS))
    refused = cluster.post("/v1/chat/completions", key=BEN, headers=wants(task="rhymes"))
    assert refused.status_code == 404
    assert not [word for word in ("'poet", "poet:2", "rhymes.", "large") if word in refused.text]
    answered = cluster.post("/v1/chat/completions", key=BEN, headers=wants(task="odes"))
    assert answered.headers["x-llamafarm-model"] == "team/poet:1.0.0"
    for key in (None, "lfr_made_up"):
        assert (
            cluster.post("/v1/chat/completions", key=key, follow=False, headers=wants(task="odes")).status_code == 401
        )


def test_who_shows_no_key_is_not_sent_to_an_application_that_asks_for_one():
    cluster = Cluster()
    (there,) = cluster.servers[0].models.peers
    cluster.servers[0].models.peers = (replace(there, require_key=True),)
    assert cluster.post("/v1/chat/completions", follow=False, headers=wants(task="rhymes")).status_code == 404
    cluster.servers[0].models.peers = (replace(there, require_key=False),)
    assert cluster.post("/v1/chat/completions", follow=False, headers=wants(task="rhymes")).status_code == 307


@pytest.mark.parametrize(
    ("headers", "settings", "is_sent_on"),
    [
        ({}, {}, True),
        ({"host": "models.example.com"}, {}, False),
        ({"host": "models.example.com"}, {"allowed_hosts": ("models.example.com",)}, True),
        ({"origin": "https://chat.example.com"}, {}, False),
        ({"origin": "https://chat.example.com"}, {"allowed_origins": ("https://chat.example.com",)}, True),
        ({"origin": "https://chat.example.com"}, {"allowed_origins": ("*",)}, True),
        ({"origin": "null"}, {"allowed_origins": ("https://chat.example.com",)}, False),
        ({"origin": "http://localhost"}, {}, True),
    ],
)
def test_who_is_refused_or_not_heard_elsewhere_is_not_sent_there(headers, settings, is_sent_on):
    cluster = Cluster(allowed_hosts=("models.example.com",))
    (there,) = cluster.servers[0].models.peers
    cluster.servers[0].models.peers = (replace(there, **settings),)
    answered = cluster.post("/v1/chat/completions", follow=False, headers={**wants(task="rhymes"), **headers})
    assert answered.status_code == (307 if is_sent_on else 404), answered.text


@pytest.mark.parametrize(("body", "kind"), [({"prompt": "A llama?"}, "completions"), (CHAT, "chat")])
def test_tokens_are_counted_by_a_model_that_writes_text(body, kind):
    cluster = Cluster()
    vectors = Figures(VECTORS, Latencies({}, 1.0))
    cluster.tell(Figures(WRITES, Latencies({}, 900.0)), vectors)
    answered = cluster.post("/tokenize", {**body, "model": "auto"}, follow=False)
    assert answered.status_code == 200, answered.text
    cluster.tell(Figures(WRITES, Latencies({}, 900.0)), Figures((kind,), Latencies({}, 1.0)))
    assert cluster.post("/tokenize", {**body, "model": "auto"}, follow=False).status_code == 307


def test_being_sent_on_counts_as_a_request_and_costs_no_tokens():
    cluster = Cluster(limits=Limits(requests_per_minute=2, tokens_per_minute=1000))
    for _ in range(2):
        assert cluster.post("/v1/chat/completions", follow=False, headers=wants(task="rhymes")).status_code == 307
    refused = cluster.post("/v1/chat/completions", follow=False, headers=wants(task="rhymes"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    (taken,) = cluster.servers[0].gateway._accounts.tell().values()
    assert (taken.num_requests, taken.num_tokens) == (2, 0)


def test_a_route_that_only_another_engine_answers_is_there_for_auto():
    cluster = Cluster()
    asked = {"model": "auto", "input": "A llama?"}
    refused = cluster.post("/v1/embeddings", asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_model_fits")
    cluster.tell(Figures(WRITES), Figures(VECTORS))
    assert cluster.post("/v1/embeddings", asked, follow=False).headers["location"].startswith("/large/v1/embeddings?")
    refused = cluster.post("/v1/embeddings", {**asked, "model": "bot"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")


def test_without_being_told_an_application_is_chosen_from_no_more():
    elsewhere = PeerModels(lambda *_: True)
    one = Peer("b", "/b", "large", LARGE, figures=Figures(WRITES, Latencies({}, 5.0)))
    found = {offer.model: offer for offer in elsewhere.to_choose_from([one], STATE, NOBODY, ())}
    assert set(found) == {"large", "poet", "team/poet"}
    assert {(offer.base_url, offer.latency_ms) for offer in found.values()} == {("/b/v1", 5.0)}
    assert elsewhere.to_choose_from([], STATE, NOBODY, ()) == []
