"""The best model answers: for ``auto`` and the agents' client, in one application and across all; status shows them."""

import json

import httpx
import openai
import pytest
from adapters import greedy, make_adapter
from patience import wait_until
from tiny_model import make_tiny_model

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.main import run
from llamafarm_ray.client import NoModelFitsError, select_model
from llamafarm_ray.workflows.deployments.deployed import APPLICATION
from llamafarm_ray.workflows.deployments.status import cluster_status
from llamafarm_ray.workflows.versions.register import Registration, register, stated

PROMPT = "The capital of France"
SECOND, THIRD = "second", "third"
RHYMES = {"x-llamafarm-task": "rhymes"}


@pytest.fixture(scope="module")
def scholar(served, tmp_path_factory):
    """A model for the task ``qa``, in production, with an accuracy of 0.9."""
    folder = tmp_path_factory.mktemp("scholar")
    adapter = make_adapter(served.base, folder / "adapter", seed=40)
    results = folder / "results.json"
    results.write_text('{"accuracy": 0.9}', encoding="utf-8")
    asked = Registration(
        adapter, name="scholar", performance_metrics=results, alias="production", facts=stated(capabilities=("qa",))
    )
    register(served.registry, asked)
    assert served.complete("scholar").status_code == 200
    return adapter


@pytest.fixture(scope="module")
def applications(served):
    """Start applications on the same cluster, with another engine, below paths of their names; they end together."""
    from ray import serve

    from llamafarm_ray.serving.application import build
    from llamafarm_ray.serving.deployment.rollout_actor import stop_controller

    names = []

    def start(name, base, **options):
        args = {
            "home": served.registry.home.uri,
            "base_model": str(base),
            "deployment": {"engine": "transformers", **options},
        }
        names.append(name)
        serve.run(build(args), name=name, route_prefix=f"/{name}")
        url = f"{served.root}/{name}/v1"
        # Serve has it running before it tells HAProxy.
        wait_until(lambda: httpx.get(f"{url}/models", timeout=10).is_success, 30)
        return url

    yield start
    for name in names:
        serve.delete(name, _blocking=False)
    for name in names:
        serve.delete(name)  # and wait: until it is gone, `auto` still sends requests there
        stop_controller(served.registry.home.uri, name)


@pytest.fixture(scope="module")
def second(served, applications):
    return applications(SECOND, served.base, adapters=["bot:1.1.0"])


@pytest.fixture(scope="module")
def poet(served, applications, tmp_path_factory):
    """An application below ``/third`` with another base model, and its adapter ``poet`` for the task ``rhymes``."""
    folder = tmp_path_factory.mktemp("poet")
    base = make_tiny_model(folder / "other", hidden_size=64, seed=7)
    adapter = make_adapter(base, folder / "adapter", seed=41)
    register(
        served.registry, Registration(adapter, name="poet", alias="production", facts=stated(capabilities=("rhymes",)))
    )
    url = applications(THIRD, base, adapters=["poet:1.0.0"])
    # Controllers look around every five seconds.
    wait_until(lambda: auto(served, task="rhymes").status_code == 307, 60)
    return url


def auto(served, **limits):
    return served.complete("auto", headers_sent={f"x-llamafarm-{name}": value for name, value in limits.items()})


def test_auto_is_answered_by_the_model_for_the_task_exactly_as_it_answers(served, scholar):
    response = auto(served, task="qa")
    assert response.headers["x-llamafarm-model"] == "scholar:1.0.0"
    expected = greedy(served.base, scholar, PROMPT, 12).rstrip("\N{REPLACEMENT CHARACTER}")
    assert response.json()["choices"][0]["text"].rstrip("\N{REPLACEMENT CHARACTER}") == expected


def test_auto_chooses_by_what_was_measured(served, scholar):
    def answered():
        response = auto(served, **{"task": "qa", "max-latency-ms": "60000"})
        return response.headers["x-llamafarm-model"] if response.is_success else ""

    # Until it was measured nothing is known to be in time, and a replica looks for what was every other second.
    assert wait_until(answered, 30) == "scholar:1.0.0"
    refused = auto(served, **{"task": "qa", "max-latency-ms": "0.001"})
    assert refused.status_code == 404
    assert "The nearest is scholar:1.0.0 with" in refused.json()["error"]["message"]
    refused = auto(served, **{"task": "qa", "min-quality": "0.95"})
    assert "The nearest is scholar:1.0.0 with 0.9 accuracy." in refused.json()["error"]["message"]


def test_without_a_task_the_same_model_answers_each_time(served, scholar):
    answered = {auto(served).headers["x-llamafarm-model"] for _ in range(5)}
    assert len(answered) == 1
    assert answered != {"scholar:1.0.0"}


def test_all_replicas_of_an_application_are_known_to_its_controller(served, scholar):
    import ray

    from llamafarm_ray.serving.deployment.rollout_actor import controller_actor

    known = ray.get(controller_actor(served.registry.home.uri, APPLICATION).known.remote(), timeout=30)
    assert known.figures.latencies.by_version["scholar:1.0.0"] > 0
    assert known.figures.kinds == ("chat", "completions")


def test_the_client_chooses_across_applications_and_what_it_chooses_answers(served, scholar, second):
    served.complete("bot:1.1.0", num_tokens=1)
    chosen = select_model(url=served.root, task="qa", min_quality=0.8, max_latency_ms=60_000)
    assert (chosen.model, chosen.version) == ("scholar", "scholar:1.0.0")
    assert chosen.base_url in {served.url, second}
    assert {one.base_url for one in chosen.left_out} == {served.url, second}
    body = {"model": chosen.model, "prompt": PROMPT, "max_tokens": 1}
    for base_url in (served.url, second):
        answered = httpx.post(f"{base_url}/completions", json=body, timeout=60)
        assert answered.headers["x-llamafarm-model"] == "scholar:1.0.0"
    with pytest.raises(NoModelFitsError, match=r"nearest is scholar:1\.0\.0 with 0\.9 accuracy"):
        select_model(url=served.root, min_quality=0.95)


def test_status_shows_what_runs_where(served, scholar, second, capsys, monkeypatch):
    assert served.complete("bot:1.0.0").status_code == 200
    found = {one.name: one for one in cluster_status(served.registry).applications}
    assert set(found) == {APPLICATION, SECOND}
    first = found[APPLICATION]
    assert (first.url, first.status, first.base_model, first.num_waiting) == (served.url, "RUNNING", "tiny", 0)
    assert found[SECOND].url == second
    (replica,) = first.replicas
    assert (replica.state, replica.answers) == ("RUNNING", True)
    assert replica.node
    versions = {one.ref: one for one in first.versions}
    record = served.registry.resolve("scholar")
    assert (
        versions["scholar:1.0.0"].digest,
        versions["scholar:1.0.0"].aliases,
        versions["scholar:1.0.0"].num_replicas,
    ) == (
        record.registered.manifest,
        ("production",),
        1,
    )
    assert versions["bot:1.0.0"].seen.minute.requests > 0
    assert versions["bot:1.0.0"].seen.minute_latency_ms > 0
    assert first.seen.requests_per_s >= 1 / 60

    home = ["--home", served.registry.home.uri]
    assert run(["models", "status", "--json", *home]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)["applications"]}
    assert told[APPLICATION]["replicas"][0]["node"] == replica.node
    for width in (80, 120):
        monkeypatch.setattr(terminal.console, "_width", width)
        assert run(["models", "status", *home]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= width
        for text in (APPLICATION, SECOND, "RUNNING", "scholar:1.0.0", "production", record.registered.manifest[7:19]):
            assert text in shown


def test_the_unmodified_openai_client_is_answered_by_the_application_that_has_a_model_for_the_task(served, poet):
    client = openai.OpenAI(base_url=served.url, api_key="none", default_headers=RHYMES)
    asked = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
    answered = client.chat.completions.with_raw_response.create(**asked)
    assert answered.headers["x-llamafarm-model"] == "poet:1.0.0"
    assert answered.parse().model.startswith("poet:1.0.0#")
    pieces = list(client.chat.completions.create(**asked, stream=True))
    assert {piece.model for piece in pieces} == {answered.parse().model}
    chosen = select_model(url=served.root, task="rhymes")
    assert (chosen.version, chosen.base_url) == ("poet:1.0.0", poet)


def test_a_request_is_sent_on_once_and_stays_where_it_was_sent(served, poet):
    sent_on = auto(served, task="rhymes")
    assert (sent_on.status_code, sent_on.headers["x-llamafarm-model"]) == (307, "poet:1.0.0")
    assert sent_on.headers["location"] == f"/{THIRD}/v1/completions?auto=within"
    body = {"model": "auto", "prompt": PROMPT, "max_tokens": 1}
    refused = httpx.post(f"{served.url}/completions?auto=within", json=body, headers=RHYMES, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_model_fits")
    with httpx.Client(follow_redirects=True, timeout=60) as client:
        answered = client.post(f"{served.url}/completions", json=body, headers=RHYMES)
        assert (answered.headers["x-llamafarm-model"], len(answered.history)) == ("poet:1.0.0", 1)
        answered = client.post(f"{poet}/completions", json=body, headers=RHYMES)
        assert (answered.headers["x-llamafarm-model"], answered.history) == ("poet:1.0.0", [])
