"""The promises of serving, against real vLLM behind Ray's own HAProxy."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from adapters import greedy, make_adapter, prompt_logprobs
from patience import wait_until
from process_tools import titled
from safetensors.torch import load_file, save_file
from tiny_adapters import change_tensors
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ConflictError, DeploymentError, InputError, NotFoundError, UserError
from llamafarm_ray.evaluation.benchmarks.backends.completions import EndpointEngine
from llamafarm_ray.evaluation.benchmarks.backends.served import Endpoint
from llamafarm_ray.evaluation.benchmarks.backends.tokens import ScoredText
from llamafarm_ray.serving.application import build
from llamafarm_ray.serving.engines.vllm import process as vllm_process
from llamafarm_ray.serving.routing.resolution import target_of
from llamafarm_ray.serving.routing.signed_header import HeaderSigner
from llamafarm_ray.serving.routing.traffic_split import Variant
from llamafarm_ray.storage import content
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows import move_alias
from llamafarm_ray.workflows.chat import ask, stream
from llamafarm_ray.workflows.deploy import deploy
from llamafarm_ray.workflows.deployed import APPLICATION, swap_adapter
from llamafarm_ray.workflows.register import Registration, register

PROMPT = "The capital of France"


@pytest.fixture(scope="module")
def oracle(served):
    """What each version must say, computed by plain peft."""
    folders = {"tiny": None, **served.adapters}
    return {ref: whole_letters(greedy(served.base, folder, PROMPT, 12)) for ref, folder in folders.items()}


def whole_letters(text):
    """Without the bytes of a letter cut off at the end, which vLLM holds back and transformers shows."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def said(response):
    return whole_letters(response.json()["choices"][0]["text"])


def test_the_versions_answer_differently(served, oracle):
    assert len(set(oracle.values())) == 4


@pytest.mark.parametrize("model", ["bot", "bot@production", "bot:1.0.0", "bot:1.1.0"])
def test_each_name_answers_as_plain_peft_does_and_says_who_answered(served, oracle, model):
    response = served.complete(model)
    version = response.headers["x-llamafarm-model"]
    record = served.registry.resolve(version)
    assert version == served.registry.resolve(model).ref
    assert response.headers["x-llamafarm-digest"] == record.registered.manifest
    assert response.json()["model"] == f"{version}#{record.registered.manifest[7:19]}"
    assert said(response) == oracle[version]


def test_the_base_answers_as_plain_transformers_does(served, oracle):
    response = served.complete("tiny")
    assert response.headers["x-llamafarm-model"] == "tiny"
    assert said(response) == oracle["tiny"]


def test_fifty_first_requests_to_a_cold_adapter_all_answer_after_one_load(served, oracle):
    from llamafarm_ray.serving.ray_serve.replicas import num_loads

    (loaded_before,) = num_loads(APPLICATION)
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: served.complete("bot:1.2.0"), range(50)))
    assert {response.status_code for response in responses} == {200}
    assert {said(response) for response in responses} == {oracle["bot:1.2.0"]}
    assert num_loads(APPLICATION) == [{**loaded_before, responses[0].json()["model"]: 1}]


def test_the_base_answers_as_alone_beside_adapters_though_each_slot_holds_one(served, oracle):
    for version in ("bot:1.0.0", "bot:1.1.0", "bot:1.2.0"):
        served.complete(version)
    models = ["tiny", "bot:1.0.0"] * 16
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(served.complete, models))
    assert [said(response) for response in responses] == [oracle[model] for model in models]


def test_swaps_under_load_lose_no_request_and_mix_no_versions(served, oracle):
    answers, failures, stop = [], [], threading.Event()

    def client():
        while not stop.is_set():
            try:
                response = served.complete("bot")
            except httpx.TransportError as error:
                failures.append(repr(error))
                continue
            if response.status_code == 200:
                answers.append((response.headers["x-llamafarm-model"], said(response)))
            else:
                failures.append(response.text)

    threads = [threading.Thread(target=client) for _ in range(4)]
    [thread.start() for thread in threads]
    try:
        for version in ("1.1.0", "1.0.0") * 4:
            assert swap_adapter(served.registry, f"bot:{version}", "production").ref == f"bot:{version}"
            response = served.complete("bot")
            assert response.headers["x-llamafarm-model"] == f"bot:{version}"
    finally:
        stop.set()
        [thread.join() for thread in threads]
    assert failures == []
    assert {version for version, _ in answers} == {"bot:1.0.0", "bot:1.1.0"}
    assert all(text == oracle[version] for version, text in answers)


def test_the_version_that_an_alias_left_is_gone_from_vllm_within_a_second(served):
    from llamafarm_ray.serving.ray_serve.replicas import loaded

    former = served.complete("bot:1.0.0").json()["model"]
    swap_adapter(served.registry, "bot:1.1.0", "production")
    wait_until(lambda: former not in loaded(APPLICATION)[0], 1)
    assert served.complete("bot").json()["model"] in loaded(APPLICATION)[0]
    swap_adapter(served.registry, "bot:1.0.0", "production")


def test_a_rollback_loads_everywhere_before_it_moves(served):
    from llamafarm_ray.serving.ray_serve import replicas

    swap_adapter(served.registry, "bot:1.1.0", "production")
    former = target_of(served.registry.resolve("bot:1.0.0")).engine_name
    until_unloaded(former)
    before = replicas.num_loads(APPLICATION)[0][former]
    notes = move_alias.rollback(served.registry, "bot", "production").notes
    assert [note for note in notes if APPLICATION in note] == []  # others may be on record that are gone
    assert former in replicas.loaded(APPLICATION)[0]
    assert replicas.num_loads(APPLICATION)[0][former] == before + 1
    assert served.complete("bot").json()["model"] == former
    assert replicas.num_loads(APPLICATION)[0][former] == before + 1


def test_replicas_load_what_an_alias_was_moved_to_without_them(served):
    from llamafarm_ray.serving.ray_serve.replicas import loaded

    heir = target_of(served.registry.resolve("bot:1.1.0")).engine_name
    served.complete("bot")
    until_unloaded(heir)
    assert move_alias.promote(served.registry, "bot:1.1.0", "production", load=False).record.ref == "bot:1.1.0"
    wait_until(lambda: heir in loaded(APPLICATION)[0], 10)
    swap_adapter(served.registry, "bot:1.0.0", "production")


def until_unloaded(engine_name):
    """Versions that were only asked for by number stay while there is room; those that lost their alias go."""
    from llamafarm_ray.serving.ray_serve.replicas import loaded

    wait_until(lambda: engine_name not in loaded(APPLICATION)[0], 5)


def test_an_adapter_of_another_base_is_refused_and_the_alias_stays(served, tmp_path):
    other = make_tiny_model(tmp_path / "other", hidden_size=128, seed=9)
    register(served.registry, Registration(make_adapter(other, tmp_path / "a", seed=1), name="foreign"))
    with pytest.raises(NotFoundError, match="Deploy its base model first"):
        swap_adapter(served.registry, "foreign", "production")
    assert "production" not in served.registry.state.models["foreign"].aliases
    response = served.complete("foreign")
    assert response.status_code == 404
    assert "no adapter of 'tiny'" in response.json()["error"]["message"]


def test_an_adapter_that_vllm_refuses_leaves_the_alias_where_it_was(served, tmp_path):
    folder = make_adapter(served.base, tmp_path / "big", seed=1, rank=32)
    register(served.registry, Registration(folder, name="big"))
    with pytest.raises((UserError, DeploymentError), match="rank"):
        swap_adapter(served.registry, "big", "production")
    assert "production" not in served.registry.state.models["big"].aliases
    assert served.complete("big").status_code == 400
    assert served.complete("bot").status_code == 200


def unproved(served, folder, name):
    """Register an adapter as a writer does that proves nothing."""
    digest = served.registry.resolve("bot:1.0.0").registered.base_digest
    served.registry.register(folder, name=name, kind=ModelKind.ADAPTER, base_digest=digest)


def test_an_adapter_that_fits_nothing_is_not_answered_as_its_base(served, tmp_path):
    folder = make_adapter(served.base, tmp_path / "misnamed", seed=2)
    change_tensors(folder, lambda old: {name.replace("layers", "blocks"): one for name, one in old.items()})
    with pytest.raises(InputError, match="of no module of the base"):
        register(served.registry, Registration(folder, name="misnamed"))
    unproved(served, folder, "misnamed")
    response = served.complete("misnamed")
    assert response.status_code == 400
    assert "misnamed:1.0.0 can't be served: The adapter does not fit" in response.json()["error"]["message"]
    assert served.complete("bot").status_code == 200


def test_an_adapter_with_a_nan_that_got_into_the_home_is_refused_by_the_replica(served, tmp_path, monkeypatch):
    folder = make_adapter(served.base, tmp_path / "spoilt", seed=2)
    weights = load_file(folder / "adapter_model.safetensors")
    name = min(weights)
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=re.escape(repr(name))):
        register(served.registry, Registration(folder, name="spoilt"))
    with monkeypatch.context() as patch:
        patch.setattr(content, "_check_finite", lambda *_: None)
        unproved(served, folder, "spoilt")
    with pytest.raises(UserError, match=r"1 of the .* are NaN or infinite"):
        swap_adapter(served.registry, "spoilt", "production")
    assert "production" not in served.registry.state.models["spoilt"].aliases
    for _ in range(2):
        response = served.complete("spoilt")
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert f"{name!r} in adapter_model.safetensors are NaN" in response.json()["error"]["message"]
    assert served.complete("bot").status_code == 200


def test_a_version_registered_now_answers_at_once(served, tmp_path):
    folder = make_adapter(served.base, tmp_path / "new", seed=77)
    register(served.registry, Registration(folder, name="newcomer"))
    assert said(served.complete("newcomer")) == whole_letters(greedy(served.base, folder, PROMPT, 12))


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


def test_the_openai_client_works_streaming_and_not(served):
    whole = ask(served.url, "bot:1.0.0", "How many legs?", max_tokens=8).text
    pieces = stream(served.url, "bot:1.0.0", [{"role": "user", "content": "How many legs?"}], max_tokens=8)
    assert "".join(pieces).strip() == whole
    client = openai.OpenAI(base_url=served.url, api_key="none")
    assert {"tiny", "bot", "bot@production", "bot:1.1.0"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("bot").id == "bot"
    with pytest.raises(NotFoundError, match="Did you mean bot"):
        ask(served.url, "bott", "?")


def test_the_responses_id_is_the_gates(served):
    response = served.complete("bot", headers_sent={"x-request-id": "mine"})
    assert response.json()["id"].startswith(f"cmpl-{response.headers['x-llamafarm-request-id']}")
    assert response.headers["x-request-id"] == "mine"
    assert "mine" not in response.text


def test_a_stream_has_no_usage_that_was_not_asked_for(served):
    assert '"usage":{' not in served.complete("bot", stream=True).text.replace(" ", "")
    assert '"usage":{' in served.complete("bot", stream=True, stream_options={"include_usage": True}).text.replace(
        " ", ""
    )


@pytest.mark.parametrize("model", ["tiny", "bot:1.1.0"])
def test_a_prompts_log_probabilities_are_those_of_plain_peft(served, model):
    """What lm-eval scores answers by."""
    tokens, expected = prompt_logprobs(served.base, served.adapters.get(model), PROMPT)
    echoed = served.complete(model, num_tokens=1, echo=True, logprobs=1).json()["choices"][0]["logprobs"]
    assert echoed["token_logprobs"][0] is None
    assert echoed["token_logprobs"][1 : len(tokens)] == pytest.approx(expected, abs=1e-3)
    told = served.complete(model, num_tokens=1, prompt_logprobs=1).json()["choices"][0]["prompt_logprobs"]
    found = [one[str(token)]["logprob"] for one, token in zip(told[1:], tokens[1:], strict=True)]
    assert found == pytest.approx(expected, abs=1e-3)
    asked = EndpointEngine(Endpoint(served.url, model), None, 256)
    ((total, _),) = asked.score([ScoredText(tuple(tokens), 3)], with_adapter=True)
    assert total == pytest.approx(sum(expected[2:]), abs=5e-3), "benchmarks on the endpoint"


def test_another_terminal_reaches_a_local_deployment(served):
    """Ray asks for this user's token, which nobody says in a terminal."""
    command = [Path(sys.executable).with_name("llamafarm"), "models", "status", "--home", served.registry.home.uri]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run([*command, "--json"], env=kept, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "llamafarm" in [one["name"] for one in json.loads(done.stdout)["applications"]]


def test_feedback_on_an_answer_becomes_a_dataset(served, tmp_path):
    from llamafarm_ray.workflows.create_dataset import create_dataset

    answered = served.complete("bot:1.1.0")
    said = {
        "model": answered.json()["model"],
        "response_id": answered.json()["id"],
        "messages": [{"role": "user", "content": PROMPT}],
        "answer": answered.json()["choices"][0]["text"] or "?",
        "correction": "is Paris.",
    }
    response = httpx.post(f"{served.url}/feedback", json=said, timeout=60)
    assert response.status_code == 201, response.text
    assert response.json()["digest"] == answered.headers["x-llamafarm-digest"]
    output = tmp_path / "said.jsonl"
    dataset = {"source": {"type": "human_feedback"}, "path": str(output), "validation": {"split_ratio": 0.0}}
    create_dataset(parse_config({"dataset": dataset, "fine_tuning": {"objective": "dpo"}}), served.registry)
    assert '"chosen": "is Paris."' in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"n": 10_000}, 400), ({"max_tokens": -1}, 400), ({"request_id": "x"}, 400), ({"priority": -1}, 400)],
)
def test_what_would_steer_the_engine_is_refused(served, fields, status):
    assert served.complete("bot", **fields).status_code == status


def test_serving_goes_on_without_the_registry_actor_which_comes_back(served, oracle):
    import ray

    from llamafarm_ray.registry.actor import registry_actor

    ray.kill(registry_actor(served.registry.home.uri), no_restart=False)
    assert served.complete("bot").status_code == 200
    for version in ("1.1.0", "1.0.0"):
        swap_adapter(served.registry, f"bot:{version}", "production")
    assert said(served.complete("bot")) == oracle["bot:1.0.0"]


def test_another_port_is_refused_and_what_runs_stays(served, ray_cluster, oracle):
    port = int(served.root.rsplit(":", 1)[1])
    config = parse_config({"base_model": str(served.base), "deployment": {"port": port + 1}})
    with pytest.raises(ConflictError, match=f"port {port} of this cluster already"):
        deploy(config, served.registry, ray_cluster)
    assert said(served.complete("bot:1.0.0")) == oracle["bot:1.0.0"]


def test_a_body_that_the_proxy_does_not_hold_whole_is_answered_alike(served, oracle):
    body = json.dumps({"model": "bot:1.0.0", "prompt": PROMPT, "max_tokens": 12, "temperature": 0})
    padded = body[:-1] + " " * 300_000 + "}"
    response = httpx.post(
        f"{served.url}/completions", content=padded, headers={"content-type": "application/json"}, timeout=60
    )
    assert said(response) == oracle["bot:1.0.0"]
    assert response.json()["model"].startswith("bot:1.0.0")


def test_the_engine_takes_one_process(served):
    """Of the processes of this test's Ray; vLLM names its own."""
    [engine] = titled("VLLM::EngineCor")
    assert titled("VLLM::") == [engine]
    assert "engines.vllm.imports" in " ".join(engine.parent().cmdline()), "it was forked, and imported nothing itself"


def test_the_engines_sockets_are_in_the_folder_that_goes_with_its_ray(served, monkeypatch):
    import ray
    from vllm.utils.network_utils import get_open_zmq_ipc_path

    folder = ray.get_runtime_context().get_temp_dir()
    assert any(path.is_socket() for path in Path(folder).iterdir())
    monkeypatch.setenv(vllm_process._SOCKETS, folder)
    assert len(get_open_zmq_ipc_path()) == len(f"ipc://{folder}") + vllm_process._SOCKET_NAME_BYTES


def test_an_option_that_vllm_does_not_have_is_refused_before_anything_starts(served):
    deployment = {"engine_kwargs": {"max_lorras": 4}}
    with pytest.raises(InputError, match=r"deployment\.engine_kwargs: .*max_lorras"):
        build({"base_model": str(served.base), "home": served.registry.home.uri, "deployment": deployment})


def test_models_share_the_memory_that_ray_gives_out_on_a_node(ray_cluster):
    import ray

    from llamafarm_ray.serving.deployment.memory import largest_node_bytes

    assert ray_cluster.started_here  # one node
    assert largest_node_bytes() == int(ray.cluster_resources()["memory"]) > 0


def test_what_is_relied_on_of_rays_private_parts_is_there():
    from ray._private.state import state
    from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackCtx
    from ray.llm._internal.serve.core.server.llm_server import LLMServer
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.serve._private import replica
    from ray.serve._private.common import ReplicaID, RequestMetadata
    from ray.serve._private.replica import ReplicaActor
    from ray.serve.context import _disconnect, _get_global_client
    from ray.serve.deployment import Application
    from ray.serve.handle import DeploymentHandle
    from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest
    from vllm.utils.ompmultiprocessing import OMPProcessManager
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine import core as engine_core
    from vllm.v1.engine import utils as engine_utils
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState
    from vllm.v1.executor.uniproc_executor import UniProcExecutor
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.worker import cpu_worker
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from llamafarm_ray.serving.engines.vllm import worker as vllm_worker

    assert callable(OMPProcessManager.configure_omp_envs)
    assert callable(engine_utils.get_mp_context)
    assert engine_core.StructuredOutputManager is StructuredOutputManager
    assert all(hasattr(StructuredOutputManager, name) for name in ("grammar_init", "clear_backend"))
    assert all(hasattr(CPUModelRunner, name) for name in ("_sample", "_bookkeeping_sync"))
    assert cpu_worker.CPUModelRunner is CPUModelRunner
    assert f"{cpu_worker.CPUWorker.__module__}.CPUWorker" == vllm_process._CPU_WORKER
    assert f"{vllm_worker.Worker.__module__}.Worker" == vllm_process.WORKER
    assert callable(replica.add_port_to_grpc_server)
    assert f"{UniProcExecutor.__module__}.{UniProcExecutor.__name__}" == vllm_process.EXECUTOR
    assert "engine_cls" in inspect.signature(LLMServer.sync_init).parameters
    assert UnloadLoRAAdapterRequest(lora_name="a").lora_name == "a"
    assert all(callable(getattr(OpenAIServingModels, f"{verb}_lora_adapter")) for verb in ("load", "unload"))
    assert all(
        hasattr(AsyncLLM, name) for name in ("generate", "remove_lora", "list_loras", "errored", "collective_rpc")
    )
    assert "num_nans_in_logits" in EngineCoreOutput.__struct_fields__
    assert {"process_outputs", "abort_requests"} <= vars(OutputProcessor).keys()
    assert {"lora_request", "queue"} <= inspect.signature(RequestState).parameters.keys()
    assert RequestMetadata(request_id="a", internal_request_id="a", call_method="load").call_method == "load"
    assert callable(ReplicaActor.handle_request)
    assert callable(state.actor_table)
    assert ReplicaID.from_full_id_str("SERVE_REPLICA::app#tiny#x").deployment_id.name == "tiny"
    assert CallbackCtx().run_init_node
    assert callable(CallbackBase.on_before_node_init)
    assert callable(_get_global_client)
    assert callable(_disconnect)
    assert all(hasattr(LLMServer, name) for name in ("check_health", "_start_engine", "start"))
    assert all(callable(getattr(DeploymentHandle, name)) for name in ("_init", "choose_replica"))
    question = inspect.signature(RequestRouter.choose_replicas).parameters
    assert list(question) == ["self", "candidate_replicas", "pending_request"]
    pending = PendingRequest(args=[], kwargs={"engine_name": "a"}, metadata=None, future=None)
    assert (pending.kwargs["engine_name"], pending.routing_context.should_backoff) == ("a", False)
    assert isinstance(RunningReplica.replica_id, property)
    assert ReplicaID.from_full_id_str("SERVE_REPLICA::app#tiny#x").unique_id == "x"
    assert all(hasattr(VLLMEngine, name) for name in ("build_asgi_app", "start", "_start_async_llm_engine"))
    assert hasattr(Application, "_with_ingress_request_router")
