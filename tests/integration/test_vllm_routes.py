"""Every route that vLLM's own app has, behind the gate: no key, no answer; and what is not listed does not exist."""

import asyncio

import httpx
import pytest
from fake_gateway import ANN, Server, keyed_state

from llamafarm_ray.serving.gateway.gateway import FEEDBACK_ROUTE, MODEL_ROUTES, OPEN_ROUTES


@pytest.fixture(scope="module")
def routes():
    """(method, path) of all that generating models have, the development ones and those that load adapters too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "tiny"])
        app = build_app(args, supported_tasks=("generate",))
        found = {
            (method, route.path)
            for route in app.routes
            for method in getattr(route, "methods", None) or {"GET", "POST"}
        }
    assert {("POST", "/v1/chat/completions"), ("GET", "/health"), ("POST", "/v1/load_lora_adapter")} <= found
    assert len(found) > 30
    return sorted(found)


LISTED = {*(("POST", route) for route in MODEL_ROUTES), ("POST", FEEDBACK_ROUTE), ("GET", "/v1/models"), *OPEN_ROUTES}


def ask_all(server, routes, key=None):
    async def scenario():
        async with server.client(key) as client:
            return {
                (method, path): await client.request(
                    method, path.replace("{", "").replace("}", ""), json={"model": "x"}
                )
                for method, path in routes
            }

    return asyncio.run(scenario())


def test_every_route_of_vllm_asks_for_a_key(routes):
    server = Server(state=keyed_state())
    open_routes = {route for route, answer in ask_all(server, routes).items() if answer.status_code != 401}
    assert open_routes == OPEN_ROUTES & set(routes)
    assert {seen.path for seen in server.engine.seen} <= {path for _, path in OPEN_ROUTES}


def test_of_vllms_routes_only_the_listed_ones_exist(routes):
    server = Server(state=keyed_state())
    answers = ask_all(server, [route for route in routes if route not in LISTED], ANN)
    assert {answer.status_code for answer in answers.values()} == {httpx.codes.NOT_FOUND}
    assert server.engine.seen == []


def test_the_listed_routes_are_vllms(routes):
    assert LISTED - {("POST", FEEDBACK_ROUTE), ("HEAD", "/health")} <= set(routes)
