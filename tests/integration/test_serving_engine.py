"""The engine's process, and the private names of Ray and vLLM that serving uses."""

import inspect
from pathlib import Path

from process_tools import titled

from llamafarm_ray.serving.engines.vllm import process as vllm_process


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
