"""The agents' client asks real endpoints on loopback, and picks across their applications."""

import asyncio
import json
import subprocess
import sys

import pytest
from asgi_server import listening
from fake_gateway import ANN, BEN, ONE, Server, adapter, keyed_state, models_state, state_of, whole

from llamafarm_ray.client import NoModelFitsError, select_model, select_model_async
from llamafarm_ray.errors import AccessDeniedError, ClusterError, InputError
from llamafarm_ray.registry.events import AliasMoved
from llamafarm_ray.serving.selection.latencies import Latencies


def expert_state():
    record = adapter("expert", "1.0.0", ONE).model_copy(
        update={"capabilities": ("qa",), "metrics": {"accuracy": 0.9}, "resources": {"memory_bytes": 5_000_000_000}}
    )
    return state_of(record, AliasMoved(model="expert", alias="production", version="1.0.0"))


class Cluster:
    """What Ray Serve's proxy does: a route prefix for each application, and the list of them."""

    def __init__(self, **applications):
        self.applications = {f"/{name}".replace("/root", "/"): gate for name, gate in applications.items()}
        self.lists_them = True

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        if path == "/-/routes" and self.lists_them:
            await whole(send, dict.fromkeys(self.applications, "x"))
            return
        for prefix in sorted(self.applications, key=len, reverse=True):
            if path.startswith(prefix.rstrip("/") + "/"):
                await self.applications[prefix]({**scope, "root_path": prefix.rstrip("/")}, receive, send)
                return


async def other(_scope, _receive, send):
    """Another kind of OpenAI-compatible server."""
    await whole(send, {"object": "list", "data": [{"id": "gpt", "object": "model"}]})


async def broken(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"no backend"})


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def cluster():
    """Two applications of ours, ``/`` (bot) and ``/other`` (expert), another's, and one that fails."""
    general, expert = Server(state=models_state()), Server(state=expert_state())
    general.models.latencies = Latencies({"bot:1.0.0": 40.0}, 90.0)
    expert.models.latencies = Latencies({"expert:1.0.0": 700.0}, 700.0)
    return Cluster(root=general.gateway, other=expert.gateway, foreign=other, starting=broken)


@pytest.fixture
def url(cluster):
    with listening(cluster) as port:
        yield f"http://127.0.0.1:{port}"


def choose_async(**wanted):
    return asyncio.run(select_model_async(**wanted))


@pytest.fixture(params=[select_model, choose_async], ids=["sync", "async"])
def choose(request):
    return request.param


@pytest.mark.parametrize(
    ("wanted", "version", "prefix"),
    [
        ({"task": "qa"}, "expert:1.0.0", "/other"),
        ({"min_quality": 0.8, "max_latency_ms": 800}, "expert:1.0.0", "/other"),
        ({"task": "chat"}, "bot:1.0.0", ""),
        ({"max_latency_ms": 50}, "bot:1.0.0", ""),
    ],
)
def test_the_best_of_all_applications_of_a_cluster_is_chosen(choose, url, wanted, version, prefix):
    chosen = choose(url=url, **wanted)
    assert (chosen.version, chosen.base_url) == (version, f"{url}{prefix}/v1")
    assert chosen.model == version.partition(":")[0]


def test_each_model_and_application_that_is_left_out_has_its_reason(choose, url):
    chosen = choose(url=url, task="qa", max_memory_bytes=5e9)
    left_out = {(one.model, one.base_url.removeprefix(url)): one.reason for one in chosen.left_out}
    assert left_out == {
        ("tiny", "/v1"): "is for chat, completions",
        ("tiny", "/other/v1"): "is for chat, completions",
        ("bot", "/v1"): "is for chat, completions",
        ("team/bot", "/v1"): "none of its versions is production",
        ("team/tuned", "/v1"): "none of its versions is production",
        ("", "/foreign/v1"): f"{url}/foreign/v1 does not describe its models.",
        ("", "/starting/v1"): f"{url}/starting/v1 answers 503.",
    }


def test_one_application_can_be_named_and_several(choose, url, monkeypatch):
    assert choose(url=f"{url}/v1/").version == "bot:1.0.0"
    with pytest.raises(NoModelFitsError, match="for the task 'qa'"):
        choose(url=f"{url}/v1", task="qa")
    assert choose(url=[f"{url}/v1", f"{url}/other/v1"], task="qa").version == "expert:1.0.0"
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/other/v1")
    assert choose().version == "expert:1.0.0"


def test_a_root_whose_list_of_applications_is_hidden_is_one_application(choose, url, cluster):
    cluster.lists_them = False
    assert choose(url=url, task="chat").base_url == f"{url}/v1"


def test_the_error_says_how_near_the_best_came_and_why_each_was_left_out(choose, url):
    with pytest.raises(NoModelFitsError, match=r"The nearest is expert:1\.0\.0 with 0\.9 accuracy") as caught:
        choose(url=url, min_quality=0.95)
    assert {one.base_url.removeprefix(url) for one in caught.value.left_out if not one.model} == {
        "/foreign/v1",
        "/starting/v1",
    }


def test_the_key_says_what_there_is_to_choose_from(choose, monkeypatch):
    with listening(Server(state=keyed_state()).gateway) as port:
        url = f"http://127.0.0.1:{port}/v1"
        assert choose(url=url, key=ANN).version == "bot:1.0.0"
        with pytest.raises(NoModelFitsError):
            choose(url=url, key=BEN)
        monkeypatch.setenv("OPENAI_API_KEY", ANN)
        assert choose(url=url).version == "bot:1.0.0"
        with pytest.raises(AccessDeniedError, match="refuses the key"):
            choose(url=url, key="wrong")


def test_what_does_not_answer_is_told(choose, url):
    with listening(other) as port:
        pass
    with pytest.raises(ClusterError, match="Nothing answers at"):
        choose(url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ClusterError, match="answers 503"):
        choose(url=f"{url}/starting/v1")
    with pytest.raises(ClusterError, match="does not describe its models"):
        choose(url=f"{url}/foreign/v1")
    with listening(Cluster()) as port, pytest.raises(ClusterError, match="No application is deployed"):
        choose(url=f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"data": 1}', b'{"data": [{"id": "x", "llamafarm": 1}]}', b'{"data": ["llamafarm"]}']
)
def test_an_answer_that_can_not_be_read_is_no_crash(choose, data):
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": data})

    with listening(app) as port, pytest.raises(ClusterError, match=f"127.0.0.1:{port}"):
        choose(url=f"http://127.0.0.1:{port}/v1")


@pytest.mark.parametrize("url", [None, "", "127.0.0.1:8000", "file:///etc/passwd", "http://x/v1?a=b", [], ["x"]])
def test_an_address_that_is_none_is_refused(choose, url):
    with pytest.raises(InputError, match="address"):
        choose(url=url)


def test_it_can_be_called_where_an_event_loop_runs_as_in_a_notebook(url):
    async def cell():
        return select_model(url=f"{url}/v1").version

    assert asyncio.run(cell()) == "bot:1.0.0"


def test_importing_it_needs_neither_ray_nor_torch():
    heavy = ["ray", "torch", "vllm", "transformers", "numpy", "pyarrow"]
    code = f"import json, sys, llamafarm_ray.client; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
