"""Adapters of a deployment: loaded once, swapped under load, and refused where they don't fit."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from adapters import greedy, make_adapter
from patience import wait_until
from safetensors.torch import load_file, save_file
from served_answers import PROMPT, said, whole_letters
from tiny_adapters import change_tensors
from tiny_model import make_tiny_model

from llamafarm_ray.errors import DeploymentError, InputError, NotFoundError, UserError
from llamafarm_ray.serving.routing.resolution import target_of
from llamafarm_ray.storage import content
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.deployments import move_alias
from llamafarm_ray.workflows.deployments.deployed import APPLICATION, swap_adapter
from llamafarm_ray.workflows.versions.register import Registration, register


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


def test_serving_goes_on_without_the_registry_actor_which_comes_back(served, oracle):
    import ray

    from llamafarm_ray.registry.remote.actor import registry_actor

    ray.kill(registry_actor(served.registry.home.uri), no_restart=False)
    assert served.complete("bot").status_code == 200
    for version in ("1.1.0", "1.0.0"):
        swap_adapter(served.registry, f"bot:{version}", "production")
    assert said(served.complete("bot")) == oracle["bot:1.0.0"]
