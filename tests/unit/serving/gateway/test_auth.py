"""Every route but health asks for a key; a key sees and uses what its roles allow, and learns nothing of the rest."""

import datetime as dt

import pytest
from fake_gateway import ANN, BEN, CHAT, GONE, NOW, OLD, Server, is_openai_error, keyed_state, models_state, principal

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry.governance.access import Role, new_token
from llamafarm_ray.serving.gateway.auth import Keys, check_keys
from llamafarm_ray.serving.gateway.gateway import FEEDBACK_ROUTE, MODEL_ROUTES

ROUTES = [
    *(("POST", route) for route in sorted(MODEL_ROUTES)),
    ("POST", FEEDBACK_ROUTE),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/bot"),
    ("GET", "/v1/health"),
    ("GET", "/metrics"),
    ("POST", "/v1/load_lora_adapter"),
    ("GET", "/nowhere"),
]


def ask(server, model, key=None, **options):
    return server.post("/v1/chat/completions", {**CHAT, "model": model}, key=key, **options)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_a_key(method, path):
    server = Server(state=keyed_state())
    response = server.request(method, path, json=CHAT)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert is_openai_error(response)
    assert server.engine.seen == []


def test_health_does_not():
    assert Server(state=keyed_state()).request("GET", "/health").status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer lfr_nobody",
        f"Basic {ANN}",
        ANN,
        f"Bearer {ANN} {ANN}",
        f"Bearer {ANN}x",
        f"Bearer {ANN.upper()}",
        f"Bearer {OLD}",
        f"Bearer {GONE}",
        "Bearer " + "x" * 4096,
        "Bearer \N{SNOWMAN}".encode(),
    ],
)
def test_a_key_that_is_worth_nothing_is_refused(header):
    server = Server(state=keyed_state())
    response = server.request("GET", "/v1/models", headers={"authorization": header})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_two_keys_are_no_key():
    server = Server(state=keyed_state())
    headers = [("authorization", f"Bearer {BEN}"), ("authorization", f"Bearer {ANN}")]
    assert server.request("GET", "/v1/models", headers=headers).status_code == 400


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_schemes_case_does_not_matter(scheme):
    server = Server(state=keyed_state())
    assert server.request("GET", "/v1/models", headers={"authorization": f"{scheme} {ANN}"}).status_code == 200


def test_a_key_ends_when_it_expires():
    server = Server(state=models_state(principal("eve", "lfr_eve", {"*": Role.VIEWER}, NOW + dt.timedelta(seconds=1))))
    assert ask(server, "bot", "lfr_eve").status_code == 200
    server.gateway._keys._now = lambda: NOW + dt.timedelta(seconds=1)
    assert ask(server, "bot", "lfr_eve").status_code == 401


def test_a_key_that_is_added_or_revoked_counts_with_the_next_request():
    server = Server(state=models_state(principal("ann", ANN, {"*": Role.ADMIN})))
    assert ask(server, "team/bot", BEN).status_code == 401
    server.models.state = keyed_state()
    assert ask(server, "team/bot", BEN).status_code == 200
    server.models.state = models_state(principal("ann", ANN, {"*": Role.ADMIN}))
    assert ask(server, "team/bot", BEN).status_code == 401


@pytest.mark.parametrize(
    "model", ["bot", "bot:1.0.0", "bot@production", "nothing", "nothing:1.0.0", "other/thing", "tiny"]
)
def test_a_model_of_another_namespace_is_refused_in_the_same_words_whether_or_not_it_exists(model):
    server = Server(state=keyed_state())
    response = ask(server, model, BEN)
    assert response.status_code == 403
    name = model.partition(":")[0].partition("@")[0]
    said = response.json()["error"]["message"].replace(repr(name), "MODEL")
    assert said == "The key may not use MODEL. GET /v1/models lists what it may use."
    assert server.models.found == []
    assert server.engine.seen == []


def test_a_model_of_ones_own_namespace_answers():
    assert ask(Server(state=keyed_state()), "team/bot", BEN).headers["x-llamafarm-model"] == "team/bot:1.0.0"


def test_a_near_miss_names_nothing_of_other_namespaces():
    response = ask(Server(state=keyed_state()), "team/bott", BEN)
    assert response.status_code == 404
    said = response.json()["error"]["message"]
    assert said == "The model 'team/bott' does not exist. Did you mean team/bot or team/tuned?"


def test_the_routers_header_opens_no_other_namespace():
    server = Server(state=keyed_state())
    response = ask(server, "team/bot", BEN, headers={"serve_multiplexed_model_id": "bot:1.0.0"})
    assert response.status_code == 403
    assert server.engine.seen == []


def test_only_what_a_key_may_use_is_listed():
    server = Server(state=keyed_state())
    listed = [card["id"] for card in server.request("GET", "/v1/models", key=BEN).json()["data"]]
    assert listed == ["team/bot", "team/bot:1.0.0", "team/tuned", "team/tuned:1.0.0"]
    there, not_there = (server.request("GET", f"/v1/models/{name}", key=BEN) for name in ("bot", "but"))
    assert there.status_code == not_there.status_code == 404
    assert there.text.replace("bot", "but") == not_there.text


def test_without_principals_nobody_needs_a_key():
    assert ask(Server(), "bot").status_code == 200
    assert ask(Server(), "bot", "whatever").status_code == 200


def test_a_key_can_be_asked_for_before_there_is_any():
    assert ask(Server(required=True), "bot").status_code == 401


def test_an_open_endpoint_is_open_to_all():
    assert ask(Server(state=keyed_state(), required=False), "bot").status_code == 200


EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  (nothing listens)


def deployment(**fields):
    return parse_config({"deployment": fields}).deployment


@pytest.mark.parametrize(
    ("state", "here", "there", "is_let_in"),
    [
        (models_state, None, None, True),
        (models_state, None, False, True),
        (models_state, None, True, False),
        (models_state, True, True, True),
        (keyed_state, None, True, True),
        (keyed_state, None, None, True),
        (keyed_state, False, None, False),
        (keyed_state, False, False, True),
        (keyed_state, True, False, True),
    ],
)
def test_who_was_asked_for_no_key_here_is_sent_nowhere_that_asks_for_one(state, here, there, is_let_in):
    assert Keys(state, required=here).admit_to(there, (), [(b"host", b"localhost")]) == is_let_in


@pytest.mark.parametrize(
    ("there", "allowed", "is_let_in"),
    [
        (False, (), False),
        (False, ("models.example.com",), True),
        (False, ("*",), True),
        (True, (), True),
        (None, (), True),
    ],
)
def test_a_name_is_sent_nowhere_that_asks_for_no_key_and_does_not_go_by_it(there, allowed, is_let_in):
    headers = [(b"host", b"models.example.com:8000")]
    assert Keys(keyed_state, required=True).admit_to(there, allowed, headers) == is_let_in


@pytest.mark.parametrize(
    "fields", [{"host": EVERY_ADDRESS}, {"host": "::"}, {"host": "10.0.0.1"}, {"host": "gpu-1"}, {"require_key": True}]
)
def test_an_endpoint_that_is_open_by_oversight_is_not_deployed(fields):
    with pytest.raises(InputError, match="registry principal add"):
        check_keys(deployment(**fields), models_state())
    check_keys(deployment(**fields), keyed_state())


@pytest.mark.parametrize(
    "fields", [{}, {"host": "localhost"}, {"host": "::1"}, {"host": EVERY_ADDRESS, "require_key": False}]
)
def test_a_laptop_needs_no_principals(fields):
    check_keys(deployment(**fields), models_state())


def test_the_registrys_own_tokens_are_keys():
    token = new_token()
    server = Server(state=models_state(principal("ann", token, {"*": Role.ADMIN})))
    assert ask(server, "bot", token).status_code == 200
