"""A request for ``auto`` is answered by the best model that its key may use and that keeps to its headers' limits."""

import pytest
from fake_gateway import (
    ANN,
    BASE,
    BEN,
    ONE,
    TWO,
    Server,
    adapter,
    is_openai_error,
    keyed_state,
    models_state,
    principal,
)

from llamafarm_ray.registry.events import AliasMoved, MetricsRecorded
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.serving.gateway.gateway import MODEL_ROUTES
from llamafarm_ray.serving.selection.catalog import VECTORS, ModelCatalog
from llamafarm_ray.serving.selection.latencies import Latencies

QA, SUMS = (
    adapter(name, "1.0.0", manifest).model_copy(
        update={
            "capabilities": ("qa",),
            "metrics": {"accuracy": accuracy},
            "resources": {"memory_bytes": memory_bytes},
        }
    )
    for name, manifest, accuracy, memory_bytes in (("quick", ONE, 0.7, 1e9), ("good", TWO, 0.9, 3e9))
)
STATE = models_state(
    QA,
    SUMS,
    AliasMoved(model="quick", alias="production", version="1.0.0"),
    AliasMoved(model="good", alias="production", version="1.0.0"),
    adapter("draft", "1.0.0", ONE).model_copy(update={"metrics": {"accuracy": 1.0}}),
)
LATENCIES = Latencies({"quick:1.0.0": 50.0, "good:1.0.0": 800.0}, 100.0)


def serving(state=STATE, **options):
    server = Server(state=state, **options)
    server.models.latencies = LATENCIES
    return server


def ask(server, route="/v1/chat/completions", key=None, **limits):
    body = {"model": "auto", "messages": [{"role": "user", "content": "A llama?"}], "prompt": "A llama?"}
    headers = {f"x-llamafarm-{name.replace('_', '-')}": str(value) for name, value in limits.items()}
    return server.post(route, body, key=key, headers=headers)


@pytest.mark.parametrize(
    ("limits", "version"),
    [
        ({}, "bot:1.0.0"),
        ({"task": "qa"}, "good:1.0.0"),
        ({"task": "qa", "max_latency_ms": 100}, "quick:1.0.0"),
        ({"task": "qa", "min_quality": 0.8}, "good:1.0.0"),
        ({"task": "chat", "max_latency_ms": 100.5}, "bot:1.0.0"),
        ({"task": "qa", "max_memory_bytes": 2e9}, "quick:1.0.0"),
    ],
)
def test_the_best_that_keeps_to_the_limits_answers_and_the_response_says_so(limits, version):
    server = serving()
    response = ask(server, **limits)
    assert response.status_code == 200, response.text
    assert response.headers["x-llamafarm-model"] == version
    assert response.json()["model"].startswith(f"{version}#")
    assert server.models.found == [version.partition(":")[0]]
    (seen,) = server.engine.seen
    assert not [name for name in seen.headers if name.startswith(b"x-llamafarm-")]


@pytest.mark.parametrize("route", sorted(MODEL_ROUTES))
def test_every_route_that_names_a_model_takes_auto(route):
    assert ask(serving(), route).headers["x-llamafarm-model"] in {"bot:1.0.0", "good:1.0.0"}


def test_a_kind_of_request_that_the_engine_does_not_answer_finds_no_model():
    server = serving()
    server.models._offers = ModelCatalog("tiny", BASE, VECTORS)
    response = ask(server)
    assert response.status_code == 404
    assert "No model is for chat requests. Did you mean" not in response.text
    assert "No model is for chat requests. There is: embeddings." in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"task": "translation"}, "none is for the task 'translation'. There is: chat, completions, qa."),
        ({"task": "qa", "min_quality": 0.95}, "The nearest is good:1.0.0 with 0.9 accuracy."),
        ({"task": "qa", "max_latency_ms": 10}, "The nearest is quick:1.0.0 with 50 ms."),
        ({"task": "qa", "max_memory_bytes": 1e8}, "The nearest is quick:1.0.0 with 1 GB."),
    ],
)
def test_where_no_model_fits_an_openai_error_says_how_near_the_best_came(limits, says):
    server = serving()
    response = ask(server, **limits)
    assert response.status_code == 404
    assert is_openai_error(response)
    assert response.json()["error"]["code"] == "no_model_fits"
    assert says in response.json()["error"]["message"]
    assert server.engine.seen == []


@pytest.mark.parametrize(
    "limits", [{"max_latency_ms": "fast"}, {"min_quality": "nan"}, {"min_quality": 2}, {"max_memory_bytes": "8G"}]
)
def test_a_limit_that_is_none_is_the_clients_mistake(limits):
    assert ask(serving(), **limits).status_code == 400


def test_a_limit_for_a_model_that_is_named_is_refused():
    response = serving().post(
        "/v1/completions", {"model": "bot", "prompt": "x"}, headers={"x-llamafarm-min-quality": "0.5"}
    )
    assert response.status_code == 400
    assert "is for the model 'auto'" in response.json()["error"]["message"]


def test_a_key_is_given_only_what_it_may_use_and_told_of_nothing_else():
    state = keyed_state()
    assert ask(serving(state), key=ANN).headers["x-llamafarm-model"] == "bot:1.0.0"
    refused = ask(serving(state), key=BEN)
    assert refused.status_code == 404
    assert not [name for name in ("tiny", "'bot", "quick") if name in refused.text]
    team = AliasMoved(model="team/tuned", alias="production", version="1.0.0")
    state = models_state(team, principal("ben", BEN, {"team": Role.VIEWER}))
    assert ask(serving(state), key=BEN).headers["x-llamafarm-model"] == "team/tuned:1.0.0"
    assert ask(serving(state)).status_code == 401


def test_what_was_not_promoted_is_never_chosen():
    state = models_state(
        adapter("bot", "1.1.0", TWO), MetricsRecorded(model="bot", version="1.1.0", metrics={"accuracy": 1.0})
    )
    assert ask(serving(state)).headers["x-llamafarm-model"] == "bot:1.0.0"


def test_what_is_known_of_a_model_is_on_its_card():
    server = serving()
    card = server.request("GET", "/v1/models/good").json()
    assert card["llamafarm"] == {
        "version": "good:1.0.0",
        "kinds": ["chat", "completions"],
        "tasks": ["qa"],
        "withheld": "",
        "quality": 0.9,
        "quality_metric": "accuracy",
        "latency_ms": 800.0,
        "memory_bytes": 3e9,
    }
    cards = {card["id"]: card for card in server.request("GET", "/v1/models").json()["data"]}
    assert cards["good"] == card
    assert cards["draft"]["llamafarm"]["withheld"] == "none of its versions is production"


def test_an_application_with_a_route_prefix_is_asked_below_it():
    server = serving()
    inner, server.gateway = server.gateway, None

    async def mounted(scope, receive, send):
        await inner({**scope, "root_path": "/other"}, receive, send)

    server.gateway = mounted
    assert ask(server, "/other/v1/chat/completions").headers["x-llamafarm-model"] == "bot:1.0.0"
    assert server.engine.seen[0].path == "/v1/chat/completions"
    assert server.request("GET", "/other/v1/models").status_code == 200
    assert server.request("GET", "/v1/other/models").status_code == 404
