"""What a configuration says of resources reaches the engine."""

from pathlib import Path

import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ClusterError, ConfigError, InputError
from llamafarm_ray.models.sentence_files import write_sentence_transformers_files
from llamafarm_ray.registry import BaseModel
from llamafarm_ray.serving import application
from llamafarm_ray.serving.adapters.capacity import room_of
from llamafarm_ray.serving.adapters.protocols import Room
from llamafarm_ray.serving.application import SERVE_ENV, _limits, _llm_config, build
from llamafarm_ray.serving.deployment.autoscaling import DEREGISTRATION_S, DRAIN_S
from llamafarm_ray.serving.deployment.vllm_replica import _bundles
from llamafarm_ray.serving.ray_serve.accelerators import accelerator_type
from llamafarm_ray.types import Digest

BASE = BaseModel("base", "base", Path("/models/base"), Digest.of(b"x"))


def llm_config(**deployment):
    return _llm_config(parse_config({"base_model": "base", "deployment": deployment}), BASE)


def test_a_laptop_gets_float32_on_one_cpu():
    made = llm_config()
    assert made["engine_kwargs"]["dtype"] == "float32"
    assert made["accelerator_config"] == {"kind": "cpu"}
    assert made["placement_group_config"] == {"bundle_per_worker": {"CPU": 1}}


def test_quantized_weights_are_computed_with_in_bfloat16(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    base = BaseModel("base", "base", tmp_path, Digest.of(b"x"))
    assert _llm_config(parse_config({"base_model": "base"}), base)["engine_kwargs"]["dtype"] == "bfloat16"


def test_resources_become_bundles():
    made = llm_config(resources={"gpu": "2x_a100", "cpu": 4, "memory": "32Gi"}, replicas=3)
    assert made["placement_group_config"] == {"bundle_per_worker": {"CPU": 4, "GPU": 1.0}}
    assert made["engine_kwargs"]["tensor_parallel_size"] == 2
    assert made["accelerator_type"] == "A100"
    assert made["deployment_config"]["ray_actor_options"]["memory"] == 32 * 2**30
    assert made["deployment_config"]["num_replicas"] == 3
    assert "dtype" not in made["engine_kwargs"]


def test_each_worker_of_an_engine_has_a_bundle_and_the_first_has_the_replicas_memory():
    made = llm_config(resources={"gpu": "2x_a100", "cpu": 4, "memory": "32Gi"})
    worker = {"CPU": 4, "GPU": 1.0, "accelerator_type:A100": 0.001}
    assert _bundles(made) == [worker | {"memory": 32 * 2**30}, worker]
    assert _bundles(llm_config(resources={"gpu": 1}, engine_kwargs={"pipeline_parallel_size": 3})) == 3 * [
        {"CPU": 1, "GPU": 1.0}
    ]


@pytest.mark.parametrize(
    ("name", "known"), [("a10", "A10G"), ("h100", "H100"), ("amd-instinct-mi300a", "AMD-Instinct-MI300A")]
)
def test_a_gpus_model_is_the_one_that_ray_finds_nodes_by(name, known):
    assert accelerator_type(name) == known


def test_a_gpu_that_ray_does_not_know_is_refused():
    with pytest.raises(InputError, match=r"resources\.gpu: Ray knows no GPU 'a1000'.*Did you mean A100"):
        llm_config(resources={"gpu": "a1000"})


def test_half_a_gpu_is_half_a_gpu():
    assert llm_config(resources={"gpu": 0.5})["placement_group_config"]["bundle_per_worker"]["GPU"] == 0.5


def test_the_users_engine_options_win():
    assert llm_config(engine_kwargs={"dtype": "bfloat16"})["engine_kwargs"]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("deployment", "num_running"),
    [({}, 256), ({"limits": {"running_requests": 8}}, 8), ({"engine_kwargs": {"max_num_seqs": 32}}, 32)],
)
def test_the_gateway_gives_the_engine_as_much_as_it_works_on(deployment, num_running):
    made = llm_config(**deployment)
    assert made["engine_kwargs"]["max_num_seqs"] == num_running
    assert _limits(parse_config({"deployment": deployment}).deployment, "vllm").running_requests == num_running


@pytest.mark.parametrize(("options", "num_running"), [({}, 4), ({"n_parallel": 2}, 2)])
def test_llama_cpp_gets_as_many_requests_as_it_has_slots(options, num_running):
    deployment = parse_config({"deployment": {"engine": "gguf", "engine_kwargs": options}}).deployment
    assert _limits(deployment, "gguf").running_requests == num_running


def test_scaling_reaches_serve_and_takes_the_place_of_a_number():
    from ray.serve._private.config import DeploymentConfig

    scaling = {"min_replicas": 0, "max_replicas": 4, "cpu_threshold": 80}
    made = llm_config(auto_scaling=scaling)["deployment_config"]
    assert "num_replicas" not in made
    assert made["autoscaling_config"]["max_replicas"] == 4
    DeploymentConfig(**{name: value for name, value in made.items() if name not in {"name", "ray_actor_options"}})


@pytest.mark.parametrize(
    ("deployment", "slots", "room"),
    [
        ({}, (5, 20), Room(in_use=4, loaded=20)),
        ({"max_loras": 1}, (2, 8), Room(in_use=1, loaded=8)),
        ({"engine_kwargs": {"max_loras": 8}}, (8, 32), Room(in_use=7, loaded=32)),
        ({"engine_kwargs": {"max_loras": 1, "max_cpu_loras": 3}}, (1, 3), Room(in_use=1, loaded=3)),
        ({"limits": {"queue_timeout_s": 5}}, (5, 20), Room(in_use=4, loaded=20, wait_s=5)),
    ],
)
def test_the_engine_has_a_slot_to_spare_and_as_many_adapters_as_the_replica_keeps(deployment, slots, room):
    made = llm_config(**deployment)["engine_kwargs"]
    assert (made["max_loras"], made["max_cpu_loras"]) == slots
    assert room_of(parse_config({"deployment": deployment}).deployment, "vllm") == room


def test_other_engines_keep_what_is_in_use_and_one_to_spare():
    assert room_of(parse_config({"deployment": {"max_loras": 3}}).deployment, "custom") == Room(in_use=3, loaded=4)


@pytest.mark.parametrize(
    ("deployment", "num_threads"),
    [
        ({}, None),
        ({"resources": {"cpu": 3}}, "3"),
        ({"resources": {"cpu": 0.5}}, "1"),
        ({"replicas": 2}, "1"),
        ({"auto_scaling": {"max_replicas": 1}}, None),
        ({"auto_scaling": {"max_replicas": 3}}, "1"),
    ],
)
def test_engines_that_share_a_machine_do_not_all_take_its_cores(monkeypatch, deployment, num_threads):
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    env = llm_config(**deployment)["runtime_env"]["env_vars"]
    assert env.get("OMP_NUM_THREADS") == num_threads
    assert env.get("VLLM_CPU_OMP_THREADS_BIND") == (num_threads and "nobind")


def test_threads_that_are_bound_by_the_user_stay_so(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-2")
    assert "OMP_NUM_THREADS" not in llm_config(replicas=2)["runtime_env"]["env_vars"]


def test_the_engine_logs_no_requests():
    assert llm_config(log_prompts=True)["engine_kwargs"]["enable_log_requests"] is False


def test_mistakes_in_a_serve_config_are_named():
    with pytest.raises(ConfigError, match=r"deployment\.replica"):
        build({"base_model": "x", "deployment": {"replica": 2}})


def test_a_cluster_without_the_proxys_environment_is_refused(monkeypatch):
    for name in SERVE_ENV:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ClusterError, match="RAY_SERVE_ENABLE_HA_PROXY"):
        build({"base_model": "x"})


def test_a_process_that_imported_serve_before_its_environment_was_set_is_told(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("llamafarm_ray.serving.ray_serve.state.RAY_SERVE_ENABLE_HA_PROXY", False)
    with pytest.raises(ClusterError, match="imported before its environment was set"):
        build({"base_model": str(tmp_path), "home": str(tmp_path / "home")})


def test_ray_serve_reads_how_long_a_replica_that_goes_takes_requests():
    from ray.serve._private import constants

    assert constants.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S == DEREGISTRATION_S
    assert constants.RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S == DRAIN_S


@pytest.mark.parametrize(
    ("deployment", "is_routed"),
    [
        ({}, False),
        ({"auto_scaling": {"min_replicas": 0, "max_replicas": 1}}, False),
        ({"replicas": 2}, True),
        ({"auto_scaling": {"max_replicas": 2}}, True),
    ],
)
def test_a_router_decides_where_there_may_be_several_replicas(monkeypatch, tmp_path, deployment, is_routed):
    for name, value in SERVE_ENV.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    made = build({"base_model": str(tmp_path / "tiny"), "home": str(tmp_path / "home"), "deployment": deployment})
    assert (made._ingress_request_router is not None) == is_routed
    secret = made._bound_deployment.init_args[1].secret
    assert bool(secret) == is_routed
    if is_routed:
        assert made._ingress_request_router._bound_deployment.init_kwargs["served"].secret == secret


def test_models_that_take_turns_reserve_the_memory_that_they_need(monkeypatch, tmp_path):
    for name, value in SERVE_ENV.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(application, "largest_node_bytes", lambda: 2**40)
    base = make_tiny_model(tmp_path / "tiny")
    args = {"base_model": str(base), "home": str(tmp_path / "home")}
    turns = {"replicas": 0, "auto_scaling": {"min_replicas": 0, "max_replicas": 1}}
    made = build({**args, "deployment": turns})._bound_deployment._replica_config
    assert 2 * 2**30 < made.placement_group_bundles[0]["memory"] < 4 * 2**30
    made = build({**args, "deployment": {**turns, "engine": "transformers"}})._bound_deployment._replica_config
    assert 2**29 < made.ray_actor_options["memory"] < 2**30
    stays = build({**args, "deployment": {}})._bound_deployment._replica_config
    assert "memory" not in stays.placement_group_bundles[0]
    with pytest.raises(InputError, match=r"deployment\.resources\.memory is 1000, and the weights of tiny alone"):
        build({**args, "deployment": {"resources": {"memory": 1000}}})


def test_an_embedding_model_is_pooled_as_its_files_say_unless_vllm_is_told_otherwise(tmp_path):
    def engine_kwargs(**deployment):
        base = BaseModel("base", "base", tmp_path, Digest.of(b"x"))
        return _llm_config(parse_config({"base_model": "base", "deployment": deployment}), base)["engine_kwargs"]

    assert "runner" not in engine_kwargs()
    write_sentence_transformers_files(tmp_path, width=8, max_length=64, pooling="cls")
    assert engine_kwargs()["runner"] == "pooling"
    assert engine_kwargs()["pooler_config"] == {"pooling_type": "CLS", "use_activation": True}
    assert engine_kwargs(engine_kwargs={"runner": "generate"})["runner"] == "generate"
    (tmp_path / "1_Pooling" / "config.json").unlink()
    assert engine_kwargs()["pooler_config"]["pooling_type"] == "MEAN"  # as transformers has it


def test_a_base_that_no_request_could_name_is_refused(monkeypatch, tmp_path):
    for name, value in SERVE_ENV.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "auto").mkdir()
    (tmp_path / "auto" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="asks for any model"):
        build({"base_model": str(tmp_path / "auto"), "home": str(tmp_path / "home")})


def test_a_base_model_is_not_called_as_the_router_is(monkeypatch, tmp_path):
    for name, value in SERVE_ENV.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="as the router"):
        build({"base_model": str(tmp_path / "router"), "home": str(tmp_path / "home")})


def test_without_an_endpoint_nothing_is_traced(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    made = llm_config()
    assert "otlp_traces_endpoint" not in made["engine_kwargs"]
    assert not any(name.startswith("OTEL") for name in made["runtime_env"]["env_vars"])


def test_vllm_sends_its_spans_where_the_gateway_does(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    made = llm_config()
    assert made["engine_kwargs"]["otlp_traces_endpoint"] == "http://collector:4318/v1/traces"
    assert made["runtime_env"]["env_vars"]["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    own = "http://other:4318/v1/traces"
    assert llm_config(otlp_traces_endpoint=own)["engine_kwargs"]["otlp_traces_endpoint"] == own
