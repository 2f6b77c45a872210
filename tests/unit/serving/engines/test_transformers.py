"""Adapters of every type answer exactly as in plain transformers and peft, at the same time and beside each other."""

import asyncio

import pytest
import torch
import transformers
from engine_answers import NUM_TOKENS, answer, generate, tokens
from method_models import randomise, reload, trained, wrapped
from patience import patience
from tiny_model import make_tiny_model

from llamafarm_ray.errors import DeploymentError, InputError, NotFoundError
from llamafarm_ray.serving.engines import transformers as engine_module
from llamafarm_ray.serving.engines.base import SamplingParams
from llamafarm_ray.serving.engines.transformers import transformers_engine

METHODS = ("lora", "adapter", "prefix_tuning", "hybrid_lora_adapter")
PROMPTS = ([5, 40, 77, 300, 12], [9, 9, 200], list(range(30, 60)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("engines") / "base")


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """A saved adapter of each method, as a training run writes it."""
    folders = {}
    for name in METHODS:
        method, model = wrapped(base, name)
        randomise(model)
        folders[name] = tmp_path_factory.mktemp(name)
        method.save(model, trained(model), folders[name])
    return folders


@pytest.fixture(scope="module")
def engine(base, adapters):
    async def loaded():
        engine = transformers_engine("tiny", base)
        for name, folder in adapters.items():
            await engine.load_adapter(name, folder)
        return engine

    return asyncio.run(loaded())


@pytest.fixture(scope="module")
def oracle(base, adapters):
    """What ``generate`` says to each prompt, by version."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval()
    said = {"tiny": [generate(plain, prompt) for prompt in PROMPTS]}
    for name, folder in adapters.items():
        model = reload(base, folder)
        said[name] = [generate(model, prompt) for prompt in PROMPTS]
    return said


def test_the_versions_answer_differently(oracle):
    assert len({str(answers) for answers in oracle.values()}) == len(METHODS) + 1


@pytest.mark.parametrize("name", ["tiny", *METHODS])
def test_greedy_answers_are_those_of_generate(engine, oracle, name):
    async def all_prompts():
        return [tokens(await answer(engine, name, prompt)) for prompt in PROMPTS]

    assert asyncio.run(all_prompts()) == oracle[name]


def test_all_versions_at_the_same_time_answer_as_alone(engine, oracle):
    async def together():
        asked = [(name, index) for name in oracle for index in range(len(PROMPTS))]
        answers = await asyncio.gather(*(answer(engine, name, PROMPTS[index]) for name, index in asked))
        return {key: tokens(steps) for key, steps in zip(asked, answers, strict=True)}

    for (name, index), said in asyncio.run(together()).items():
        assert said == oracle[name][index], name


def test_a_short_answer_does_not_wait_for_a_long_ones_end(engine):
    async def scenario():
        ended = []

        async def ask(name, num_tokens):
            await answer(engine, name, PROMPTS[0], num_tokens, ignore_eos=True)
            ended.append(name)

        await asyncio.gather(ask("adapter", 150), ask("tiny", 3))
        return ended

    assert asyncio.run(scenario()) == ["tiny", "adapter"]


def test_a_prompt_in_chunks_is_answered_as_in_one(engine, oracle, monkeypatch):
    monkeypatch.setattr(engine_module, "_CHUNK_TOKENS", 7)

    async def chunked():
        return [tokens(await answer(engine, name, PROMPTS[2])) for name in oracle]

    assert asyncio.run(chunked()) == [answers[2] for answers in oracle.values()]


@pytest.mark.parametrize("name", ["tiny", "adapter", "prefix_tuning"])
@pytest.mark.parametrize("chunk", [512, 4])
def test_log_probabilities_are_those_of_one_forward_pass(engine, base, adapters, monkeypatch, name, chunk):
    monkeypatch.setattr(engine_module, "_CHUNK_TOKENS", chunk)
    steps = asyncio.run(answer(engine, name, PROMPTS[2], 4, logprobs=3, prompt_logprobs=2))
    told = [step for step in steps if step.token is not None or step.prompt]
    scored = [*told[0].prompt, *(step.token for step in told)]
    ids = [token.token_id for token in scored]
    assert ids[: len(PROMPTS[2])] == PROMPTS[2]
    if name == "tiny":
        model = transformers.AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval()
    else:
        model = reload(base, adapters[name])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    assert scored[0].logprob is None
    for place, token in enumerate(scored[1:]):
        assert token.logprob == pytest.approx(expected[place, token.token_id].item(), abs=1e-4)
        assert token.top[0][0] == int(expected[place].argmax())
    assert [len(token.top) for token in scored] == [0] + [2] * (len(PROMPTS[2]) - 1) + [3] * 4


def test_a_prompt_alone_can_be_scored(engine):
    steps = asyncio.run(answer(engine, "tiny", PROMPTS[0], 0, prompt_logprobs=1))
    assert [len(step.prompt) for step in steps] == [len(PROMPTS[0])]
    assert steps[0].finish_reason == "length"
    assert tokens(steps) == []


def test_an_answer_ends_at_a_stop_token_or_at_its_length(engine, oracle):
    said = oracle["adapter"][0]
    stop = said[4]
    steps = asyncio.run(answer(engine, "adapter", PROMPTS[0], stop_token_ids=(stop,)))
    assert tokens(steps) == said[: said.index(stop) + 1]
    assert [step.finish_reason for step in steps][-1] == "stop"
    steps = asyncio.run(answer(engine, "adapter", PROMPTS[0], 3))
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_a_seed_repeats_an_answer_whatever_runs_beside_it(engine):
    async def scenario():
        alone = tokens(await answer(engine, "lora", PROMPTS[1], temperature=1.0, seed=3))
        beside, *_ = await asyncio.gather(
            answer(engine, "lora", PROMPTS[1], temperature=1.0, seed=3),
            answer(engine, "lora", PROMPTS[1], temperature=1.0, seed=4),
        )
        return alone, tokens(beside), tokens(await answer(engine, "lora", PROMPTS[1], temperature=1.0, seed=4))

    alone, beside, other = asyncio.run(scenario())
    assert alone == beside
    assert alone != other


def test_versions_share_the_bases_weights_and_none_is_changed(base, adapters):
    async def scenario():
        engine = transformers_engine("tiny", base)
        before = tokens(await answer(engine, "tiny", PROMPTS[0]))
        plain = dict(engine._models["tiny"]._model.named_parameters())
        for name, folder in adapters.items():
            await engine.load_adapter(name, folder)
            own = {id(p) for p in engine._models[name]._model.parameters()}
            assert {id(p) for p in plain.values()} <= own
        assert tokens(await answer(engine, "tiny", PROMPTS[0])) == before

    asyncio.run(scenario())


def peft_adapter(base, folder, change=None, **config):
    """An adapter that plain peft made and saved, and what plain peft answers with it."""
    import warnings

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = get_peft_model(plain, LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **config}))
        for name, weight in model.named_parameters():
            if "lora_B" in name or weight.requires_grad:
                torch.nn.init.normal_(weight, std=0.2)
        if change is not None:
            change(model)
        model.save_pretrained(folder)
        return folder, [generate(model.eval(), prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def biased(base, tmp_path_factory):
    """A base model with biases."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    folder = shutil.copytree(base, tmp_path_factory.mktemp("biased") / "biased")
    config = AutoConfig.from_pretrained(base)
    config.attention_bias = True
    with torch.random.fork_rng():
        torch.manual_seed(2)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


OWN_WEIGHTS = {
    "biases of the base": {"bias": "all"},
    "biases beside its updates": {"bias": "lora_only"},
    "a head": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": {"embed_tokens": [5, 9]}},
    "layers": {"layer_replication": [[0, 2], [1, 2]]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("kind", OWN_WEIGHTS)
def test_weights_that_a_version_brings_are_its_own(biased, tmp_path, kind):
    folder, said = peft_adapter(biased, tmp_path / "adapter", **OWN_WEIGHTS[kind])

    async def scenario():
        engine = transformers_engine("tiny", biased)
        before = [tokens(await answer(engine, "tiny", prompt)) for prompt in PROMPTS]
        await engine.load_adapter("bot", folder)
        assert [tokens(await answer(engine, "bot", prompt)) for prompt in PROMPTS] == said
        assert [tokens(await answer(engine, "tiny", prompt)) for prompt in PROMPTS] == before
        assert said != before

    asyncio.run(scenario())


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "orthogonal"])
def test_no_initialisation_of_a_version_reaches_the_base(base, adapters, oracle, tmp_path, init):
    folder, _ = peft_adapter(base, tmp_path / "adapter", init_lora_weights=init)

    async def scenario():
        engine = transformers_engine("tiny", base)
        await engine.load_adapter("lora", adapters["lora"])
        await engine.load_adapter("other", folder)
        for name in ("tiny", "lora"):
            assert [tokens(await answer(engine, name, prompt)) for prompt in PROMPTS] == oracle[name]

    asyncio.run(scenario())


@pytest.mark.parametrize("write", ["data", "in place"])
def test_a_version_whose_loading_writes_the_base_is_refused_and_the_base_is_put_right(
    base, adapters, oracle, monkeypatch, write
):
    load = engine_module.load_adapter

    def hostile(model, folder, **options):
        weight = model.get_submodule("model.layers.1.mlp.up_proj").weight
        if write == "data":
            weight.data = weight.data + 1
        else:
            weight.data.add_(1)
        return load(model, folder, **options)

    async def scenario():
        engine = transformers_engine("tiny", base)
        await engine.load_adapter("lora", adapters["lora"])
        with monkeypatch.context() as patch:
            patch.setattr(engine_module, "load_adapter", hostile)
            with pytest.raises(DeploymentError, match=r"changed the base model's weights \(model\.layers\.1\.mlp\.up"):
                await engine.load_adapter("bot", adapters["adapter"])
        assert engine.loaded == ["lora", "tiny"]
        for name in ("tiny", "lora"):
            assert [tokens(await answer(engine, name, prompt)) for prompt in PROMPTS] == oracle[name]

    asyncio.run(scenario())


def test_a_version_that_computes_no_numbers_is_taken_out_by_name(base, adapters, oracle, tmp_path):
    def spoil(model):
        model.get_submodule("base_model.model.model.layers.0.self_attn.v_proj.lora_B.default").weight.data[0, 0] = 3e38

    folder, _ = peft_adapter(base, tmp_path / "adapter", spoil, lora_alpha=1000)

    async def scenario():
        engine = transformers_engine("tiny", base)
        await engine.load_adapter("lora", adapters["lora"])
        await engine.load_adapter("bad", folder)
        for match in ("bad is taken out: It computed logits", "bad was taken out: It computed logits"):
            with pytest.raises(DeploymentError, match=match):
                await answer(engine, "bad", PROMPTS[0])
        await engine.unload_adapter("bad")
        with pytest.raises(DeploymentError, match="bad was taken out"):
            await engine.load_adapter("bad", folder)
        for name in ("tiny", "lora"):
            assert [tokens(await answer(engine, name, prompt)) for prompt in PROMPTS] == oracle[name]

    asyncio.run(scenario())


def test_an_unloaded_version_is_freed_and_its_answer_is_written_to_the_end(base, adapters, oracle):
    import gc
    import weakref

    async def scenario():
        engine = transformers_engine("tiny", base)
        await engine.load_adapter("bot", adapters["adapter"])
        gone = weakref.ref(engine._models["bot"])
        stream = engine.generate("bot", PROMPTS[0], SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0))
        said = [await anext(stream)]
        await engine.unload_adapter("bot")
        assert engine.loaded == ["tiny"]
        said += [step async for step in stream]
        assert tokens(said) == oracle["adapter"][0]
        with pytest.raises(NotFoundError, match="bot"):
            await answer(engine, "bot", PROMPTS[0])
        del stream
        async with asyncio.timeout(patience(5)):
            while gone() is not None:  # the thread may be at the end of the last step
                await asyncio.sleep(0.01)
                gc.collect()
        with pytest.raises(InputError, match="base model"):
            await engine.unload_adapter("tiny")

    asyncio.run(scenario())


def test_what_has_no_room_is_refused(engine, base):
    longest = engine.max_model_len("tiny")
    assert longest == 256
    assert engine.max_model_len("prefix_tuning") < longest
    assert transformers_engine("tiny", base, max_model_len=64).max_model_len("tiny") == 64
    with pytest.raises(InputError, match="256 is the most"):
        asyncio.run(answer(engine, "tiny", PROMPTS[0], 252))
    with pytest.raises(InputError, match="no tokens"):
        asyncio.run(answer(engine, "tiny", []))


def test_a_token_that_only_the_tokenizer_knows_is_the_clients_mistake(tmp_path):
    folder = make_tiny_model(tmp_path / "base")
    fewer = transformers.LlamaConfig.from_pretrained(folder, vocab_size=300)
    transformers.LlamaForCausalLM(fewer).save_pretrained(folder)
    engine = transformers_engine("tiny", folder)
    with pytest.raises(InputError, match="has the token 300, and the model knows those below 300"):
        asyncio.run(answer(engine, "tiny", [5, 300, 7]))
    assert len(tokens(asyncio.run(answer(engine, "tiny", [5, 299, 7], ignore_eos=True)))) == NUM_TOKENS


def test_an_adapter_of_another_base_is_refused(adapters, tmp_path):
    other = make_tiny_model(tmp_path / "other", hidden_size=128)
    engine = transformers_engine("other", other)
    with pytest.raises(InputError, match="does not fit its base model"):
        asyncio.run(engine.load_adapter("bot", adapters["adapter"]))


def test_a_format_that_torch_does_not_have_is_refused(base):
    with pytest.raises(InputError, match=r"engine_kwargs\.dtype: 'float7'"):
        transformers_engine("tiny", base, dtype="float7")
    with pytest.raises(InputError, match=r"engine_kwargs\.attn_implementation is 'magic'"):
        transformers_engine("tiny", base, attn_implementation="magic")
