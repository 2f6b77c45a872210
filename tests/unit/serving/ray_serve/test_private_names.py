"""The private names of Ray and Ray Serve that this room relies on: one that an upgrade moves fails here."""

import inspect

from llamafarm_ray.serving.ray_serve import cluster_state, state


def test_the_control_stores_tables_are_there():
    from ray._private.state import GlobalState

    assert isinstance(cluster_state.state, GlobalState)
    assert list(inspect.signature(GlobalState.actor_table).parameters)[1:] == ["actor_id", "job_id", "actor_state_name"]
    assert list(inspect.signature(GlobalState.job_table).parameters) == ["self"]


def test_the_names_of_replicas_and_their_states_are_there():
    from ray.serve._private.common import ReplicaID, ReplicaState, RequestMetadata
    from ray.serve._private.constants import SERVE_NAMESPACE

    assert SERVE_NAMESPACE == "serve"
    assert {"STARTING", "RUNNING", "STOPPING"} <= {one.value for one in ReplicaState}
    assert state.replica_state({"state": "RUNNING"}) == "RUNNING"
    assert ReplicaID.is_full_id_str("SERVE_REPLICA::app#tiny#x")
    assert ReplicaID.from_full_id_str("SERVE_REPLICA::app#tiny#x").deployment_id.app_name == "app"
    assert {"request_id", "internal_request_id", "call_method"} <= inspect.signature(RequestMetadata).parameters.keys()


def test_the_client_of_a_running_serve_is_there():
    from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY
    from ray.serve.context import _disconnect, _get_global_client

    assert isinstance(RAY_SERVE_ENABLE_HA_PROXY, bool)
    assert "raise_if_no_controller_running" in inspect.signature(_get_global_client).parameters
    assert callable(_disconnect)


def test_a_replica_can_be_picked_and_asked_nothing():
    from ray.serve._private import router
    from ray.serve._private.request_router.replica_wrapper import ReplicaSelection
    from ray.serve.deployment import Application
    from ray.serve.handle import DeploymentHandle

    assert '"_reserve"' in inspect.getsource(router)
    assert "_replica" in ReplicaSelection.__annotations__
    assert all(callable(getattr(DeploymentHandle, name)) for name in ("_init", "choose_replica"))
    assert callable(Application._with_ingress_request_router)
