"""Requests, clients and options that a deployment refuses."""

import dataclasses

import httpx
import pytest
from served_answers import PROMPT, said

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, InputError
from llamafarm_ray.serving.application import build
from llamafarm_ray.serving.routing.resolution import target_of
from llamafarm_ray.serving.routing.signed_header import HeaderSigner
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.workflows.deployments.deploy import deploy
from llamafarm_ray.workflows.deployments.deployed import APPLICATION


@pytest.mark.parametrize("model", ["nope", "bot:9.9.9", "bot@nope", "../../etc/passwd", "bot\n"])
def test_an_unknown_model_is_an_openai_error(served, model):
    response = served.complete(model)
    assert response.status_code in {400, 404}
    assert set(response.json()["error"]) >= {"message", "type", "code"}


def test_a_client_cannot_choose_a_version_by_the_routers_header(served):
    body = {"model": "bot:1.0.0", "prompt": PROMPT, "max_tokens": 1}
    for header in ("serve_multiplexed_model_id", "serve-multiplexed-model-id", "x-serve-router-model"):
        response = httpx.post(f"{served.url}/completions", json=body, headers={header: "bot:1.1.0"}, timeout=60)
        assert response.headers["x-llamafarm-model"] == "bot:1.0.0"


def test_who_reaches_a_replica_itself_cannot_write_a_routers_decision(served):
    """HAProxy strips the header only while the router runs; a replica's own port is open to the cluster's network."""
    import ray
    from ray.serve.context import _get_global_client

    controller = _get_global_client()._controller
    [group] = ray.get(controller.get_target_groups.remote(APPLICATION, True))
    [replica] = group.targets
    target = target_of(served.registry.resolve("bot:1.1.0"))
    decision = dataclasses.replace(target, variant=Variant.CANDIDATE, rollout="r-1").routed
    for forged in (
        decision,
        "0" * 32 + decision,
        HeaderSigner("").close(decision),
        HeaderSigner("guessed").close(decision),
    ):
        response = httpx.post(
            f"http://127.0.0.1:{replica.port}/v1/completions",
            json={"model": "bot:1.0.0", "prompt": PROMPT, "max_tokens": 1},
            headers={"serve_multiplexed_model_id": forged},
            timeout=60,
        )
        assert response.status_code == 200, response.text
        assert response.headers["x-llamafarm-model"] == "bot:1.0.0"
        assert "x-llamafarm-variant" not in response.headers


@pytest.mark.parametrize(("num_bytes", "status"), [(48 * 1024, 200), (80 * 1024, 431)])
def test_headers_of_many_cookies_pass_the_proxy_up_to_their_bound(served, num_bytes, status):
    response = served.complete("bot:1.0.0", headers_sent={"cookie": "c" * num_bytes})
    assert response.status_code == status
    assert status == 200 or response.json()["error"]["code"] == "headers_too_large"
    assert served.complete("bot:1.0.0").status_code == 200


@pytest.mark.parametrize(
    "route", ["/docs", "/openapi.json", "/metrics", "/v1/load_lora_adapter", "/adapters", "/sleep", "/version", "/ping"]
)
def test_no_route_of_vllm_but_the_listed_ones_is_reachable(served, route):
    assert httpx.get(served.root + route).status_code == 404
    assert httpx.post(served.root + route, json={"model": "bot"}).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"n": 10_000}, 400), ({"max_tokens": -1}, 400), ({"request_id": "x"}, 400), ({"priority": -1}, 400)],
)
def test_what_would_steer_the_engine_is_refused(served, fields, status):
    assert served.complete("bot", **fields).status_code == status


def test_another_port_is_refused_and_what_runs_stays(served, ray_cluster, oracle):
    port = int(served.root.rsplit(":", 1)[1])
    config = parse_config({"base_model": str(served.base), "deployment": {"port": port + 1}})
    with pytest.raises(ConflictError, match=f"port {port} of this cluster already"):
        deploy(config, served.registry, ray_cluster)
    assert said(served.complete("bot:1.0.0")) == oracle["bot:1.0.0"]


def test_an_option_that_vllm_does_not_have_is_refused_before_anything_starts(served):
    deployment = {"engine_kwargs": {"max_lorras": 4}}
    with pytest.raises(InputError, match=r"deployment\.engine_kwargs: .*max_lorras"):
        build({"base_model": str(served.base), "home": served.registry.home.uri, "deployment": deployment})
