"""Every field of a request, alone and in pairs, at once and with prompts in parts: none ends vLLM's engine."""

import itertools
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from adapters import make_adapter
from chat_shapes import LARGE, RAW, SHAPES, body_of
from e2e_tools import ROOT
from process_tools import titled
from sampling_values import CHAT, COMPLETION, ELSEWHERE, TOOLS, alone_and_in_pairs
from tiny_model import make_tiny_model, make_tiny_tokenizer

from llamafarm_ray.config import parse_config
from llamafarm_ray.registry import open_registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]

NUM_PARTS = 5
"""Each route's requests come in so many tests, so that a run can be stopped between them; odd, so that each has all
prompts."""
AT_ONCE = 16
CHUNK = 64
"""Tokens that vLLM computes at most in a step: most prompts are computed in parts."""
SHARED = "The capital of France is Paris. " * 5
PROMPTS = [
    SHARED,
    f"{SHARED} What does a farm need?",  # what comes before is in the prefix cache
    "A llama",
    f"Water {SHARED * 2}",
]
TABLES = {"/completions": COMPLETION, "/chat/completions": CHAT}


@pytest.fixture(scope="module")
def url(ray_cluster, tmp_path_factory):
    from llamafarm_ray.clusters.ports import free_port
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register

    folder = tmp_path_factory.mktemp("fuzz")
    base = make_tiny_model(folder / "tiny", hidden_size=64)
    registry = open_registry(str(folder / "home"))
    register(registry, Registration(make_adapter(base, folder / "adapter", seed=1), name="bot"))
    options = {"max_num_batched_tokens": CHUNK, "enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    deployment = {
        "port": free_port(),
        "max_lora_rank": 16,
        "adapters": ["bot"],
        "limits": {"running_requests": AT_ONCE},
        "engine_kwargs": options,
    }
    yield deploy(parse_config({"base_model": str(base), "deployment": deployment}), registry, ray_cluster).url
    undeploy(registry, ray_cluster)


def asked(route, number, fields):
    prompt = PROMPTS[number % len(PROMPTS)]
    what = {"messages": [{"role": "user", "content": prompt}]} if "chat" in route else {"prompt": prompt}
    return {"model": ("bot:1.0.0", "tiny")[number % 2], "max_tokens": 8, **what, **fields}


def outcome(client, url, route, body):
    """The status of an answer, or of the event that ends its stream."""
    response = client.post(f"{url}{route}", json=body)
    if response.status_code == 200 and 'data: {"error"' in response.text:
        error = response.text.split('data: {"error"')[1].split("\n")[0]
        return json.loads(f'{{"error"{error}')["error"]["code"]
    return response.status_code


def is_answered_or_refused(status):
    return status == 200 or (isinstance(status, int) and 400 <= status < 500)


@pytest.mark.parametrize("route", TABLES)
def test_each_field_of_vllms_requests_is_tried(route):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    known = (ChatCompletionRequest if "chat" in route else CompletionRequest).model_fields
    assert set(known) - ELSEWHERE <= set(TABLES[route])


@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("route", TABLES)
def test_none_ends_the_engine_or_is_a_fault_of_the_server(url, route, part):
    [engine] = titled("VLLM::EngineCor")
    wrong = []
    requests = itertools.islice(enumerate(alone_and_in_pairs(TABLES[route])), part, None, NUM_PARTS)
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        while batch := list(itertools.islice(requests, 50 * AT_ONCE)):
            bodies = [asked(route, number, fields) for number, fields in batch]
            statuses = pool.map(lambda body: outcome(client, url, route, body), bodies)
            wrong += [
                (status, fields)
                for status, (_, fields) in zip(statuses, batch, strict=True)
                if not is_answered_or_refused(status)
            ]
            assert titled("VLLM::EngineCor") == [engine], f"the engine has ended; {wrong[:20]}"
    assert wrong == []


def odd_bodies():
    """Chats of every shape, for the version and for its base, alone and with tools."""
    for shape, messages in {**SHAPES, **LARGE}.items():
        for model in ("bot:1.0.0", "tiny"):
            yield shape, body_of(messages, model)
        yield f"{shape}, with tools", body_of(messages, "tiny", tools=TOOLS)
        yield (
            f"{shape}, as parts",
            body_of(messages, "tiny", chat_template_kwargs={"enable_thinking": True}, stream=True),
        )
    yield from ((name, body.replace("MODEL", "tiny").encode()) for name, body in RAW.items())


def tokens_beyond(size):
    """Prompts of token ids of which one is no token: at the edge, far beyond, and below zero."""
    for beyond in (size, size + 1, 2 * size, 2**31 - 1, 2**31, 2**63, -1):
        for place in (0, 100, 199):
            prompt = [5] * 200
            prompt[place] = beyond
            yield str(beyond), prompt


def is_told(response):
    """Return whether a request was answered, or refused with words that show nothing of the server."""
    if not is_answered_or_refused(response.status_code):
        return False
    if response.status_code == 200:
        return 'data: {"error"' not in response.text
    error = response.json()["error"]
    words = ("Traceback", "site-packages", str(ROOT), tempfile.gettempdir())
    return bool(error["message"]) and not any(word in error["message"] for word in words)


def test_no_shape_of_a_chat_and_no_token_ends_the_engine_under_load(url):
    [engine] = titled("VLLM::EngineCor")
    headers = {"content-type": "application/json"}
    with httpx.Client(timeout=300) as client, ThreadPoolExecutor(AT_ONCE) as pool:

        def chat(body):
            return client.post(f"{url}/chat/completions", content=body, headers=headers)

        def complete(prompt):
            body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0}
            return client.post(f"{url}/completions", json=body)

        fine = complete([5, 6, 7]).json()["choices"][0]["text"]
        odd = list(odd_bodies())
        beyond = list(tokens_beyond(len(make_tiny_tokenizer())))
        asked = [pool.submit(chat, body) for _, body in odd]
        refused = [pool.submit(complete, prompt) for _, prompt in beyond]
        others = [pool.submit(complete, [5, 6, 7]) for _ in range(50)]
        wrong = [
            (shape, one.result().status_code, one.result().text[:300])
            for (shape, _), one in zip(odd, asked, strict=True)
            if not is_told(one.result())
        ]
        statuses = {(name, one.result().status_code) for (name, _), one in zip(beyond, refused, strict=True)}
        texts = {one.result().json()["choices"][0]["text"] for one in others}
    assert titled("VLLM::EngineCor") == [engine], wrong[:20]
    assert wrong == []
    assert {status for _, status in statuses} == {400}, statuses
    assert texts == {fine}
