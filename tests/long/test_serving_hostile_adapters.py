"""Adapters that fit nothing, overflow or rewrite their base are loaded under traffic, and no other answer changes."""

import asyncio
import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from adapters import greedy, make_adapter
from tiny_adapters import change_config, change_tensors
from tiny_model import make_tiny_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

NUM_TOKENS = 12
PROMPTS = ("The capital of France", "Water boils at", "How many legs", "A llama is")


def renamed(old, new):
    return lambda adapter: change_tensors(
        adapter, lambda tensors: {name.replace(old, new): one for name, one in tensors.items()}
    )


def changed(change, which=""):
    """A change of the tensors with a word in their names."""
    return lambda adapter: change_tensors(
        adapter, lambda tensors: {name: change(one) if which in name else one for name, one in tensors.items()}
    )


def without(which):
    return lambda adapter: change_tensors(
        adapter, lambda tensors: {name: one for name, one in tensors.items() if which not in name}
    )


def configured(**config):
    return lambda adapter: change_config(adapter, **config)


HOSTILE = [
    renamed("model.layers", "model.decoder.layers"),
    renamed("layers.0", "layers.99"),
    renamed("q_proj", "qproj"),
    renamed("base_model.model.", "base_model.model.module."),
    renamed("base_model.model.", "_orig_mod."),
    renamed(".weight", ".default.weight"),
    without("layers.0.self_attn.q_proj.lora_B"),
    without("lora_B"),
    without("layers.1"),
    changed(lambda one: one.astype(np.int8)),
    changed(lambda one: one[:, :1]),
    changed(lambda one: one[:4], "lora_A"),
    changed(lambda one: one[:0], "lora_A"),
    changed(lambda one: one * np.nan, "layers.0.self_attn.v_proj"),
    changed(lambda one: one * np.inf, "layers.1.mlp"),
    changed(lambda one: one * np.float32(1e19)),
    changed(lambda one: one * np.float32(1e30), "lora_B"),
    configured(lora_alpha=1e308),
    configured(lora_alpha=-1e200),
    configured(lora_alpha="thirty"),
    configured(lora_alpha=0),
    configured(r=0),
    configured(r=64),
    configured(r="8"),
    configured(rank_pattern={"q_proj": 2}),
    configured(target_modules=["q_proj", "v_proj", "down_proj", "o_proj"]),
    configured(init_lora_weights="pissa"),
    configured(init_lora_weights="olora"),
    configured(alora_invocation_tokens=[1, 2]),
    configured(peft_type="PROMPT_TUNING"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base model, two adapters that fit it, and thirty that don't."""
    folder = tmp_path_factory.mktemp("hostile")
    base = make_tiny_model(folder / "tiny", hidden_size=128)
    good = [make_adapter(base, folder / f"good-{number}", seed=number + 1) for number in range(2)]
    hostile = []
    for number, spoil in enumerate(HOSTILE):
        hostile.append(shutil.copytree(good[0], folder / f"hostile-{number}"))
        spoil(hostile[-1])
    return base, good, hostile


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def deployed(request, ray_cluster, files, port, tmp_path_factory):
    """The engine with all of them in its registry: the hostile ones by a writer that proves nothing."""
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import find_base, open_registry
    from llamafarm_ray.storage import content
    from llamafarm_ray.types import ModelKind
    from llamafarm_ray.workflows.deployments.deploy import deploy
    from llamafarm_ray.workflows.deployments.undeploy import undeploy
    from llamafarm_ray.workflows.versions.register import Registration, register

    base, good, hostile = files
    registry = open_registry(str(tmp_path_factory.mktemp("home")))
    digest = find_base(str(base), registry).digest
    for number, adapter in enumerate(good):
        register(registry, Registration(adapter, name=f"good-{number}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "_check_finite", lambda *_: None)
        for adapter in hostile:
            registry.register(adapter, name=adapter.name, kind=ModelKind.ADAPTER, base_digest=digest, method="lora")
    deployment = {"port": port, "engine": request.param, "max_lora_rank": 64}
    served = deploy(parse_config({"base_model": str(base), "deployment": deployment}), registry, ray_cluster)
    yield served.url
    undeploy(registry, ray_cluster)


def plain(base, adapter, prompt):
    """What plain peft answers, without a letter that is cut off at its end."""
    return whole(greedy(base, adapter, prompt, NUM_TOKENS))


def whole(text):
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def complete(url, model, prompt):
    body = {"model": model, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0}
    return httpx.post(f"{url}/completions", json=body, timeout=120)


def test_thirty_hostile_adapters_under_traffic_are_refused_by_name_and_change_no_answer(deployed, files):
    base, good, hostile = files
    versions = {"tiny": None, "good-0": good[0], "good-1": good[1]}
    oracle = {(name, prompt): plain(base, adapter, prompt) for name, adapter in versions.items() for prompt in PROMPTS}
    assert len(set(oracle.values())) > len(oracle) / 2
    done, asked = threading.Event(), []

    def traffic(offset):
        for case in itertools.islice(itertools.cycle(oracle), offset, None):
            if done.is_set():
                return
            answer = complete(deployed, *case)
            asked.append((case, answer.status_code, answer.json()))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(traffic, offset) for offset in (0, 3, 6, 9)]
        refusals = [complete(deployed, adapter.name, PROMPTS[0]) for adapter in hostile for _ in range(2)]
        done.set()
        for client in clients:
            client.result()
    for adapter, refused in zip([one for one in hostile for _ in range(2)], refusals, strict=True):
        assert refused.status_code in {400, 501}, (adapter.name, refused.text)
        assert f"{adapter.name}:1.0.0 can't be served" in refused.json()["error"]["message"]
    assert len(asked) >= len(oracle)
    for case, status, body in asked:
        assert (status, whole(body["choices"][0]["text"])) == (200, oracle[case]), case
    for case, said in oracle.items():
        assert whole(complete(deployed, *case).json()["choices"][0]["text"]) == said


def test_a_version_that_gives_vllm_nan_is_named_and_others_stay_exact(files, tmp_path, monkeypatch):
    """Behind the proof's back: what computes NaN all the same ends with an error, and leaves nothing in the cache."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from llamafarm_ray.serving.engines.vllm.numbers import WORKER_EXTENSION, watch_logits

    base, good, _ = files
    bad = shutil.copytree(good[0], tmp_path / "bad")
    changed(lambda one: one * np.float32(1e19))(bad)
    for name, value in (("VLLM_COMPUTE_NANS_IN_LOGITS", "1"), ("VLLM_CPU_KVCACHE_SPACE", "1"), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    adapters = {None: None, "good": LoRARequest("good", 1, str(good[1])), "bad": LoRARequest("bad", 2, str(bad))}

    async def answer(engine, name, prompt, number):
        params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0)
        said = [out async for out in engine.generate(prompt, params, f"{name}-{number}", lora_request=adapters[name])]
        return whole(said[-1].outputs[0].text)

    async def scenario():
        args = AsyncEngineArgs(
            model=str(base), enable_lora=True, max_loras=3, max_lora_rank=8, dtype="float32", enforce_eager=True,
            max_num_seqs=8, max_model_len=128, worker_extension_cls=WORKER_EXTENSION,
        )  # fmt: skip
        engine, named, numbers = AsyncLLM.from_engine_args(args), [], itertools.count()
        try:
            watch_logits(engine, named.append)
            for _ in range(6):
                cases = [(name, prompt) for prompt in PROMPTS for name in (None, "good", "bad")]
                answers = await asyncio.gather(
                    *(answer(engine, *case, next(numbers)) for case in cases), return_exceptions=True
                )
                for (name, prompt), said in zip(cases, answers, strict=True):
                    if name == "bad":
                        assert isinstance(said, Exception)
                    elif not isinstance(said, Exception):  # an error is told; a wrong answer is not
                        assert said == oracle[name, prompt], (name, prompt)
            for (name, prompt), text in oracle.items():
                assert await answer(engine, name, prompt, next(numbers)) == text
            return set(named)
        finally:
            engine.shutdown()

    oracle = {
        (name, prompt): plain(base, good[1] if name else None, prompt) for name in (None, "good") for prompt in PROMPTS
    }
    assert asyncio.run(scenario()) == {"bad"}
