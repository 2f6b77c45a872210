"""What an operator sees of a deployment: metrics in Ray's Prometheus endpoint, traces at a collector; who is let in."""

import contextlib
import json
import secrets
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import ray
from adapters import make_adapter
from patience import wait_until
from prometheus_client.parser import text_string_to_metric_families

from llamafarm_ray.telemetry.catalog import SERVING as METERS
from llamafarm_ray.telemetry.meters import RayMeters
from llamafarm_ray.workflows.accounting.usage import last_days, report_usage
from llamafarm_ray.workflows.deployments.health import check_health
from llamafarm_ray.workflows.versions.register import Registration, register

BY_NAME = {meter.name: meter for meter in METERS}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def metered(served, tmp_path_factory):
    """A version that this file alone asks for: its only request so far was the first, which loaded it."""
    folder = make_adapter(served.base, tmp_path_factory.mktemp("metered") / "adapter", seed=31)
    record = register(served.registry, Registration(folder, name=f"metered-{secrets.token_hex(3)}"))
    return record.ref


def samples():
    """(name, labels, value) of all that Ray's node shows."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    page = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10).text
    return [
        (sample.name.removeprefix("ray_"), sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("ray_llamafarm_")
    ]


def shown(holds, within_s=40):
    """Return what the page shows once something holds of it."""
    seen = []

    def looked():
        seen[:] = samples()
        return holds(seen)

    wait_until(looked, within_s, lambda: sorted({name for name, *_ in seen}))
    return seen


def test_the_page_counts_a_versions_requests(served, metered):
    num_tokens = 6
    for stream in (False, False, True, True, True):
        response = served.complete(metered, num_tokens=num_tokens, ignore_eos=True, stream=stream)
        assert response.status_code == 200
    assert served.complete(metered, top_p=7).status_code == 400
    prompt_tokens = served.complete(metered, num_tokens=num_tokens, ignore_eos=True).json()["usage"]["prompt_tokens"]

    def counted(found):
        return {
            (name, labels.get("end")): value
            for name, labels, value in found
            if labels.get("model") == metered and not name.endswith(("_bucket", "_sum"))
        }

    assert counted(shown(lambda found: sum(counted(found).values()) >= 50)) == {
        ("llamafarm_requests_total", "answered"): 6,
        ("llamafarm_requests_total", "refused"): 1,
        ("llamafarm_latency_seconds_count", None): 6,
        ("llamafarm_time_to_first_token_seconds_count", None): 3,
        ("llamafarm_inter_token_seconds_count", None): 3,
        ("llamafarm_prompt_tokens_total", None): 6 * prompt_tokens,
        ("llamafarm_completion_tokens_total", None): 6 * num_tokens,
        ("llamafarm_adapter_loads_total", None): 1,
    }


def test_a_versions_requests_are_on_record_below_the_home(served, metered):
    for _ in range(3):
        assert served.complete(metered).status_code == 200
    assert served.complete(metered, top_p=7).status_code == 400

    def recorded():
        rows = report_usage(served.registry, since=last_days(2), by="version").rows
        used = sum(row.used.num_requests for row in rows if row.name == metered)
        sketches = [one.health.reference for one in check_health(served.registry) if one.ref == metered]
        return used, [(one.num_answered, one.num_checked, one.num_refused) for one in sketches]

    def is_whole():
        used, counts = recorded()
        return any(answered == read >= 3 and used == answered + refused for answered, read, refused in counts)

    wait_until(is_whole, 60, recorded)
    told = httpx.get(f"{served.url}/health", params={"model": metered}, timeout=60)
    assert [one["version"] for one in told.json()["versions"]] == [metered]


@pytest.mark.long
def test_gauges_stay_on_the_page_during_a_minute_of_rest(served):
    def of_replicas(found):
        return {name: value for name, labels, value in found if "model" not in labels}

    assert served.complete("bot").status_code == 200
    shown(lambda found: of_replicas(found).get("llamafarm_adapters_loaded", 0) >= 1)
    seen = []
    for _ in range(60):
        time.sleep(1)
        seen.append(of_replicas(samples()))
    assert [gauges["llamafarm_queue_length"] for gauges in seen] == 60 * [0]
    assert all(gauges["llamafarm_adapters_loaded"] >= 1 for gauges in seen)


@pytest.mark.usefixtures("ray_cluster")
def test_the_page_shows_each_metric_under_its_name_with_its_labels_and_buckets():
    probe = f"probe-{secrets.token_hex(3)}"

    @ray.remote(num_cpus=0)
    class Probe:
        """Reports one of each, as a replica does."""

        def __init__(self):
            meters = RayMeters(METERS)
            report = {"counter": meters.add, "gauge": meters.set, "histogram": meters.observe}
            for meter in METERS:
                report[meter.kind](meter.name, 2.0, dict.fromkeys(meter.labels, probe))

    actor = Probe.remote()
    expected = {meter.name + suffix for meter in METERS for suffix in SUFFIXES[meter.kind]}
    of_replicas_too = {meter.name for meter in METERS if not meter.labels}  # whose reports are on the page as well

    def ours(found):
        return [one for one in found if one[1].get("model") == probe or not BY_NAME.get(one[0], METERS[0]).labels]

    found = ours(shown(lambda found: expected - of_replicas_too <= {name for name, *_ in ours(found)}))
    assert {name for name, *_ in found} == expected
    for meter in METERS:
        for name, labels, value in found:
            if name in {meter.name + suffix for suffix in SUFFIXES[meter.kind]}:
                assert set(meter.labels) <= set(labels)
                assert value == 2 or meter.kind == "histogram" or name in of_replicas_too
        if meter.kind == "histogram":
            edges = [labels["le"] for name, labels, _ in found if name == f"{meter.name}_bucket"]
            assert [float(edge) for edge in edges] == [*meter.bounds, float("inf")]
    del actor


def test_one_trace_joins_the_client_the_gate_and_vllm(served):
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    sent = {"traceparent": f"00-{trace}-{parent}-01"}
    response = served.complete("bot:1.1.0", prompt="my pin is xyzzy", headers_sent=sent, num_tokens=4, ignore_eos=True)

    def joined(spans):
        return [span for span in spans if span.trace == trace]

    expected = {"text_completion bot:1.1.0", "llm_request"}
    spans = served.collector.wait(lambda spans: expected <= names_in(spans, trace))
    by_name = {span.name: span for span in joined(spans)}
    gate, engine = by_name["text_completion bot:1.1.0"], by_name["llm_request"]
    assert (gate.parent, engine.parent) == (parent, gate.span)
    assert gate.attributes["gen_ai.response.model"] == response.json()["model"]
    assert gate.attributes["llamafarm.digest"] == response.headers["x-llamafarm-digest"]
    usage = response.json()["usage"]
    assert gate.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert gate.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 4
    assert engine.attributes["gen_ai.usage.completion_tokens"] == 4
    assert gate.resource["service.name"] == engine.resource["service.name"] == "llamafarm"
    assert "xyzzy" not in repr(joined(spans))  # letters: digits also occur in identifiers and times


def test_the_first_request_of_a_version_has_its_load_in_its_trace(served, tmp_path):
    folder = make_adapter(served.base, tmp_path / "adapter", seed=32)
    ref = register(served.registry, Registration(folder, name=f"traced-{secrets.token_hex(3)}")).ref
    trace = secrets.token_hex(16)
    sent = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    assert served.complete(ref, headers_sent=sent).status_code == 200
    spans = served.collector.wait(lambda spans: {"load adapter", "llm_request"} <= names_in(spans, trace))
    (load,) = (span for span in spans if (span.trace, span.name) == (trace, "load adapter"))
    assert load.attributes["llamafarm.version"] == ref
    (pull,) = (span for span in spans if (span.trace, span.name) == (trace, "pull adapter"))
    assert pull.parent == load.parent


def names_in(spans, trace):
    return {span.name for span in spans if span.trace == trace}


def test_a_page_that_makes_its_own_name_point_here_gets_nothing(served):
    own = httpx.get(f"{served.url}/models", timeout=30)
    assert own.status_code == 200
    for host in ("attacker.example", "localhost.attacker.example:8000", "127.0.0.1.attacker.example"):
        refused = httpx.get(f"{served.url}/models", headers={"Host": host}, timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
        assert served.complete("bot", headers_sent={"Host": host}).status_code == 403


def test_a_page_of_another_origin_may_not_ask(served):
    asked = {"Origin": "https://attacker.example", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{served.url}/completions", headers=asked, timeout=30)
    assert response.status_code == 404
    answered = served.complete("bot", headers_sent={"Origin": "https://attacker.example"})
    for one in (response, answered):
        assert not any(name.startswith("access-control") for name in one.headers)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNK = b"100000\r\n" + b" " * 2**20 + b"\r\n"
CLOSE = b"Connection: close\r\n"
HALF_A_BODY = HEAD + b"Content-Length: 100\r\n\r\n{"
HALF_A_HEAD = HEAD + b"X-A: "
FLOODS = {
    "a body that does not end": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    "a body of which one byte comes": (HALF_A_BODY, b""),
    "two hundred headers": (HEAD + CLOSE + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", b""),
    "a packed body": (HEAD + CLOSE + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08", b""),
}
UNREADABLE = {
    "headers that do not end": HALF_A_HEAD,
    "a thousand headers": HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(1000)) + b"\r\n",
    "a header of a megabyte": HEAD + b"X-A: " + b"a" * 2**20 + b"\r\nContent-Length: 2\r\n\r\n{}",
}


def flooded(served, begin, go_on=b""):
    """What a client is told that sends the beginning, and then goes on 64 times, until the connection is closed."""
    host, _, port = served.root.removeprefix("http://").partition(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=40) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(begin)
        for _ in range(64 if go_on else 0):
            connection.sendall(go_on)
        while data := connection.recv(65536):
            said += data
    return said


@pytest.fixture(scope="module", autouse=True)
def stalled(served):
    """Clients that send no more, from before the first test: they are cut off after ten seconds at most."""
    with ThreadPoolExecutor() as pool:
        yield {begin: pool.submit(flooded, served, begin) for begin in (HALF_A_BODY, HALF_A_HEAD)}


@pytest.mark.parametrize(("begin", "go_on"), FLOODS.values(), ids=FLOODS)
def test_a_client_that_floods_or_stalls_is_cut_off_and_others_are_answered(served, stalled, begin, go_on):
    said = stalled[begin].result() if begin in stalled else flooded(served, begin, go_on)
    if said:
        head, _, body = said.partition(b"\r\n\r\n")
        assert 400 <= int(head.split()[1]) < 500, said[:300]
        assert set(json.loads(body)["error"]) >= {"message", "type", "code"}
    assert served.complete("bot").status_code == 200


@pytest.mark.parametrize("begin", UNREADABLE.values(), ids=UNREADABLE)
def test_headers_that_haproxy_cannot_read_are_cut_off_and_others_are_answered(served, stalled, begin):
    """It answers before its settings hold, in HTML."""
    said = stalled[begin].result() if begin in stalled else flooded(served, begin)
    assert not said or int(said.split()[1]) in {400, 408}, said[:300]
    assert served.complete("bot").status_code == 200


def test_no_log_has_anything_of_a_prompt(served):
    marker, control = (f"{kind}-{secrets.token_hex(8)}" for kind in ("prompt", "control"))
    assert served.complete("bot:1.0.0", prompt=f"my pin is {marker}").status_code == 200
    bodies = {
        "a field that the engine refuses": json.dumps({"model": "bot:1.0.0", "prompt": marker, "top_p": 7}),
        "a body cut off": json.dumps({"model": "bot:1.0.0", "prompt": marker})[:-1],
        "a field of another type": json.dumps({"model": "bot:1.0.0", "prompt": {marker: marker}}),
        "an adapter that is not there": json.dumps({"model": "nope", "prompt": marker}),
    }
    for what, body in bodies.items():
        headers = {"Content-Type": "application/json"}
        refused = httpx.post(f"{served.url}/completions", content=body, headers=headers, timeout=60)
        assert 400 <= refused.status_code < 500, what

    @ray.remote(num_cpus=0)
    def say(text):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    ray.get(say.remote(control))  # in the log of a worker
    wait_until(lambda: logs_with(control), 20, lambda: "the logs are not where they are looked for")
    assert logs_with(marker) == []


def logs_with(text):
    """The files of this Ray's logs, and of its HAProxy's, that have a text in them."""
    context = ray.get_runtime_context()
    folder = Path(context.get_temp_dir())
    files = [*(folder / context.get_session_name() / "logs").rglob("*"), *folder.parent.glob("*/*.log")]
    return [str(file) for file in files if file.is_file() and text.encode() in file.read_bytes()]
