"""What clients do to the real stack: odd requests end no engine, and whoever leaves leaves no work behind."""

import contextlib
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from adapters import make_adapter
from patience import wait_until
from process_tools import is_loopback, titled

from llamafarm_ray.workflows.versions.register import Registration, register

NUM_AT_ONCE = 24
LONG = "The capital of France is Paris. " * 6
"""So many of these at once are more than vLLM computes of prompts in one step, so some are computed in parts."""
CONSTRAINTS = {
    "a regex": ({"regex": "[ab]+"}, 200),
    "an empty rule": ({"grammar": "root ::= "}, 200),
    "a rule": ({"grammar": 'root ::= "a"'}, 200),
    "a schema for one library": ({"json": {"type": "integer", "multipleOf": 3}}, 200),
    "a schema for the other": ({"json": {"type": "object", "patternProperties": {"^a": {"type": "integer"}}}}, 200),
    "a choice": ({"choice": ["yes", "no"]}, 200),
    "half a regex": ({"regex": "("}, 400),
    "no grammar": ({"grammar": "?"}, 400),
    "no schema": ({"json": "{"}, 400),
    "no choice": ({"choice": []}, 400),
}


def test_seeded_requests_whose_prompts_are_computed_in_parts_say_what_they_say_alone(served):
    def texts(seed):
        response = served.complete(
            "bot:1.0.0", f"{seed} {LONG}", num_tokens=4, temperature=0.9, seed=seed, n=4, ignore_eos=True
        )
        assert response.status_code == 200, response.text
        return [choice["text"] for choice in response.json()["choices"]]

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        at_once = list(pool.map(texts, range(NUM_AT_ONCE)))
    assert [texts(seed) for seed in range(3)] == at_once[:3]


def constrained(served, constraint, **fields):
    return served.complete("bot:1.0.0", num_tokens=6, structured_outputs=constraint, **fields)


@pytest.mark.parametrize("order", [list(CONSTRAINTS), list(CONSTRAINTS)[::-1]], ids=["forth", "back"])
def test_a_constraint_is_answered_or_refused_whatever_was_asked_before(served, order):
    expected = {name: CONSTRAINTS[name][1] for name in order}
    assert {name: constrained(served, CONSTRAINTS[name][0]).status_code for name in order} == expected
    events = constrained(served, {"grammar": "?"}, stream=True)
    refused = (
        events.json() if events.status_code == 400 else json.loads(events.text.partition("data: ")[2].split("\n")[0])
    )
    assert refused["error"]["type"] == "invalid_request_error"


def request_bytes(**fields):
    body = json.dumps({"model": "bot:1.0.0", "prompt": "A llama", "temperature": 1, "ignore_eos": True, **fields})
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n{body}".encode()


def computed_s(engine):
    times = engine.cpu_times()
    return times.user + times.system


def is_idle(engine, for_s=1):
    """Return True if a process computed next to nothing for a second that begins now."""
    before = computed_s(engine)
    time.sleep(for_s)
    return computed_s(engine) - before < 0.2 * for_s


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_is_idle_a_second_after_its_clients_have_left(served, stream):
    [engine] = titled("VLLM::EngineCor")
    host, _, port = served.root.removeprefix("http://").partition(":")
    before = computed_s(engine)
    with contextlib.ExitStack() as clients:
        for _ in range(16):
            client = clients.enter_context(socket.create_connection((host, int(port)), timeout=30))
            client.sendall(request_bytes(stream=stream, n=16, max_tokens=240))
        wait_until(lambda: computed_s(engine) > before + 0.5, 60)  # it works for them
    wait_until(lambda: is_idle(engine), 2)
    assert served.complete("bot:1.0.0").status_code == 200


def test_first_requests_to_a_version_registered_a_moment_ago_are_answered(served, tmp_path):
    for number in range(3):
        folder = make_adapter(served.base, tmp_path / f"adapter-{number}", seed=60 + number)
        ref = register(served.registry, Registration(folder, name=f"fresh-{secrets.token_hex(3)}")).ref
        with ThreadPoolExecutor(4) as pool:
            responses = list(pool.map(lambda _, ref=ref: served.complete(ref, num_tokens=1), range(4)))
        assert [response.status_code for response in responses] == [200] * 4


def test_all_that_a_deployment_listens_with_is_on_the_host_that_was_asked_for(served):
    assert "127.0.0.1" in served.root
    open_to_others = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN and not is_loopback(one.laddr.ip):
                    open_to_others[one.laddr] = " ".join(process.cmdline())[:80]
    assert open_to_others == {}


def test_another_terminal_reaches_a_ray_that_is_on_loopback_alone(served, ray_cluster):
    script = (
        "import sys, ray\n"
        "from llamafarm_ray.workflows.clusters.cluster import connect\n"
        "with connect(sys.argv[1]) as cluster:\n"
        "    print(cluster.address, ray.get(ray.remote(num_cpus=0)(lambda: 'ran').remote()))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, ray_cluster.address], capture_output=True, text=True, check=False
    )
    assert told.stdout.split() == [ray_cluster.address, "ran"], told.stderr


def test_rays_token_is_closed_to_other_users(served):
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
