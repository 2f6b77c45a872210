"""GGUF files answer through llama.cpp as transformers does with the weights they were made from."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from engine_answers import NUM_TOKENS, answer, generate, tokens
from fake_gateway import Server
from gguf_files import write_gguf, write_lora
from patience import patience
from tiny_model import SENTENCES, make_tiny_model

from llamafarm_ray.errors import DeploymentError, InputError, NotFoundError, UserError
from llamafarm_ray.models.chat import end_of_turn_ids
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.serving.engines.app import ROUTES, EngineApp
from llamafarm_ray.serving.engines.base import SamplingParams
from llamafarm_ray.serving.engines.gguf.engine import GgufEngine
from llamafarm_ray.serving.engines.transformers import transformers_engine

PROMPTS = ([5, 40, 77, 300, 12], [9, 9, 200], list(range(30, 60)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("gguf") / "base")


@pytest.fixture(scope="module")
def files(base, tmp_path_factory):
    """The base model's file, another one of its kind and an update of the former; and what the update changes."""
    folder = tmp_path_factory.mktemp("files")
    write_gguf(base, folder / "base" / "model.gguf")
    write_gguf(make_tiny_model(folder / "other-hf", seed=7), folder / "other" / "model.gguf")
    changes = write_lora(folder / "lora" / "adapter.gguf", base)
    return folder, changes


@pytest.fixture(scope="module")
def engine(files):
    folder, _ = files

    async def loaded():
        engine = GgufEngine("tiny", folder / "base", n_parallel=2, n_threads=1)
        await engine.load_adapter("other", folder / "other")
        await engine.load_adapter("lora", folder / "lora")
        return engine

    return asyncio.run(loaded())


@pytest.fixture(scope="module")
def models(base, files):
    """What transformers makes of the same weights."""
    from transformers import AutoModelForCausalLM

    folder, changes = files
    changed = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, change in changes.items():
            changed.get_parameter(name).add_(torch.from_numpy(change))
    return {
        "tiny": AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval(),
        "other": AutoModelForCausalLM.from_pretrained(str(folder / "other-hf"), dtype=torch.float32).eval(),
        "lora": changed,
    }


@pytest.mark.parametrize("name", ["tiny", "other", "lora"])
def test_greedy_answers_are_those_of_generate(engine, models, name):
    async def all_prompts():
        return [tokens(await answer(engine, name, prompt)) for prompt in PROMPTS]

    expected = [generate(models[name], prompt) for prompt in PROMPTS]
    assert asyncio.run(all_prompts()) == expected
    assert name == "tiny" or expected != [generate(models["tiny"], prompt) for prompt in PROMPTS]


def test_more_answers_at_the_same_time_than_slots_are_as_alone(engine, models):
    async def together():
        asked = [(name, index) for name in models for index in range(len(PROMPTS))] * 2
        answers = await asyncio.gather(*(answer(engine, name, PROMPTS[index]) for name, index in asked))
        return list(zip(asked, answers, strict=True))

    for (name, index), steps in asyncio.run(together()):
        assert tokens(steps) == generate(models[name], PROMPTS[index]), name


@pytest.mark.parametrize("name", ["tiny", "lora"])
def test_log_probabilities_are_those_of_one_forward_pass(engine, models, name):
    """The tokens of this prompt and answer are mostly single bytes, which llama.cpp's own stream leaves out."""
    options = {"logprobs": 3, "prompt_logprobs": 2, "ignore_eos": True}
    steps = asyncio.run(answer(engine, name, PROMPTS[2], 12, **options))
    scored = [*steps[0].prompt, *(step.token for step in steps)]
    ids = [token.token_id for token in scored]
    assert ids[: len(PROMPTS[2])] == PROMPTS[2]
    with torch.no_grad():
        expected = models[name](input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    assert scored[0].logprob is None
    for place, token in enumerate(scored[1:]):
        assert token.logprob == pytest.approx(expected[place, token.token_id].item(), abs=1e-3)
        assert token.top[0][1] == pytest.approx(expected[place].max().item(), abs=1e-3)
    assert [len(token.top) for token in scored] == [0] + [2] * (len(PROMPTS[2]) - 1) + [3] * 12


def test_a_prompt_alone_can_be_scored(engine):
    steps = asyncio.run(answer(engine, "tiny", PROMPTS[0], 0, prompt_logprobs=1))
    assert [len(step.prompt) for step in steps] == [len(PROMPTS[0])]
    assert steps[0].finish_reason == "length"
    assert tokens(steps) == []
    place = len(PROMPTS[0]) - 2
    (end,) = asyncio.run(answer(engine, "tiny", PROMPTS[0], 0, prompt_logprobs=1, first_prompt_logprob=place))
    assert [token.logprob for token in end.prompt[:place]] == [None] * place
    assert end.prompt[place:] == steps[0].prompt[place:], "its end is scored alone"


def test_an_answer_ends_at_a_stop_token_or_at_its_length(engine, models):
    said = generate(models["tiny"], PROMPTS[0])
    stop = said[4]
    steps = asyncio.run(answer(engine, "tiny", PROMPTS[0], stop_token_ids=(stop,)))
    assert tokens(steps) == said[: said.index(stop) + 1]
    assert steps[-1].finish_reason == "stop"
    steps = asyncio.run(answer(engine, "tiny", PROMPTS[0], 3))
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_an_answer_ends_where_the_model_ends_it(engine, base, models, tmp_path):
    """The file calls the fifth token of a greedy answer the end of text."""
    from gguf import GGUFReader

    said = generate(models["tiny"], PROMPTS[0])
    path = write_gguf(base, tmp_path / "ending" / "model.gguf")
    reader = GGUFReader(path, "r+")
    reader.get_field("tokenizer.ggml.eos_token_id").parts[-1][0] = said[4]
    reader.data.flush()
    del reader
    ending = GgufEngine("tiny", path, n_parallel=1, n_threads=1)
    steps = asyncio.run(answer(ending, "tiny", PROMPTS[0]))
    assert tokens(steps) == said[: said.index(said[4]) + 1]
    assert steps[-1].finish_reason == "stop"
    on = asyncio.run(answer(ending, "tiny", PROMPTS[0], ignore_eos=True))
    assert tokens(on) == tokens(asyncio.run(answer(engine, "tiny", PROMPTS[0])))


def test_a_seed_repeats_an_answer_and_another_one_does_not(engine):
    async def scenario():
        alone = tokens(await answer(engine, "tiny", PROMPTS[1], temperature=1.0, seed=3))
        beside, other = await asyncio.gather(
            answer(engine, "tiny", PROMPTS[1], temperature=1.0, seed=3),
            answer(engine, "tiny", PROMPTS[1], temperature=1.0, seed=-4),
        )
        free = [tokens(await answer(engine, "tiny", PROMPTS[1], temperature=1.0)) for _ in range(2)]
        return alone, tokens(beside), tokens(other), free

    alone, beside, other, free = asyncio.run(scenario())
    assert alone == beside
    assert alone != other
    assert len(set(alone)) > NUM_TOKENS // 2  # each is drawn anew
    assert free[0] != free[1]


def test_sampling_keeps_to_the_most_probable_tokens(engine, models):
    async def scenario():
        options = {"temperature": 5.0, "logprobs": 3}
        few = [await answer(engine, "tiny", PROMPTS[0], top_k=3, seed=seed, **options) for seed in range(3)]
        nucleus = await answer(engine, "tiny", PROMPTS[0], top_p=1e-6, seed=1, **options)
        return few, nucleus

    few, nucleus = asyncio.run(scenario())
    for steps in few:
        assert all(step.token.token_id in dict(step.token.top) for step in steps)
    assert len({str(tokens(steps)) for steps in few}) > 1
    assert tokens(nucleus) == generate(models["tiny"], PROMPTS[0])


def test_an_answer_that_nobody_waits_for_ends_and_frees_its_slot(engine):
    async def scenario():
        for _ in range(3):
            stream = engine.generate("tiny", PROMPTS[0], SamplingParams(max_tokens=200, temperature=0.0))
            await anext(stream)
            await stream.aclose()
        task = asyncio.create_task(answer(engine, "tiny", PROMPTS[0], 200, ignore_eos=True))
        await asyncio.sleep(0)
        task.cancel()
        return await asyncio.wait_for(answer(engine, "tiny", PROMPTS[0], 2), patience(20))

    assert len(tokens(asyncio.run(scenario()))) == 2


def test_texts_become_the_tokens_that_the_models_own_tokenizer_makes(engine, base):
    theirs, ours = load_tokenizer(base), engine.tokenizer
    assert len(ours) == len(theirs)
    for text in (*SENTENCES, "<|im_start|>user\nä 日本 \N{LLAMA}<|im_end|>", "  two  spaces"):
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        options = {"add_special_tokens": False, "return_offsets_mapping": True}
        assert ours(text, **options)["offset_mapping"] == theirs(text, **options)["offset_mapping"], text
    chat = [{"role": "user", "content": "A llama?"}]
    assert end_of_turn_ids(ours) == end_of_turn_ids(theirs)
    options = {"tokenize": False, "add_generation_prompt": True}
    assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options)


ASKED = {"model": "tiny", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
CHAT = {**ASKED, "messages": [{"role": "user", "content": "A llama?"}]}
REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT),
    "scored chat": ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 1}),
    "completion": ("/v1/completions", {**ASKED, "prompt": SENTENCES[0], "logprobs": 1, "echo": True}),
    "two answers": ("/v1/completions", {**ASKED, "prompt": SENTENCES[:2], "n": 2}),
    "stream": ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    "tokens": ("/tokenize", {"model": "tiny", "prompt": SENTENCES[3], "return_token_strs": True}),
    "tokens of a chat": ("/tokenize", {"model": "tiny", "messages": CHAT["messages"]}),
}


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
def test_over_http_it_answers_as_engine_transformers_does(ours, theirs, path, body):
    responses = [server.post(path, body, headers={"x-request-id": "1"}) for server in (ours, theirs)]
    assert [response.status_code for response in responses] == [200, 200], responses[0].text
    said, expected = (plain(response.text) for response in responses)
    assert said == expected


@pytest.fixture(scope="module")
def ours(files):
    folder, _ = files
    return Server(engine=EngineApp(GgufEngine("tiny", folder / "base", n_parallel=4, n_threads=1)), routes=ROUTES)


@pytest.fixture(scope="module")
def theirs(base):
    return Server(engine=EngineApp(transformers_engine("tiny", base)), routes=ROUTES)


def plain(text):
    """An answer or the events of a stream without what differs each time, log-probabilities to three digits."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line and line != "data: [DONE]"]
    return [_rounded(json.loads(line)) for line in lines]


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items() if key not in {"id", "created"}}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return pytest.approx(value, abs=2e-3) if isinstance(value, float) else value


def test_a_stop_text_ends_the_answer_and_the_work(ours):
    asked = {**ASKED, "prompt": SENTENCES[0], "max_tokens": 200}
    whole = ours.post("/v1/completions", asked).json()["choices"][0]["text"]
    stop = whole[10:13]
    body = ours.post("/v1/completions", {**asked, "stop": stop}).json()
    assert body["choices"][0]["text"] == whole[: whole.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 100


def test_what_has_no_room_is_refused(engine, files):
    folder, _ = files
    assert engine.max_model_len("tiny") == 256
    assert GgufEngine("tiny", folder / "base", max_model_len=64, n_parallel=1).max_model_len("tiny") == 64
    with pytest.raises(InputError, match="256 is the most"):
        asyncio.run(answer(engine, "tiny", PROMPTS[0], 252))
    assert len(tokens(asyncio.run(answer(engine, "tiny", [7] * 255, 1)))) == 1
    with pytest.raises(InputError, match="no tokens"):
        asyncio.run(answer(engine, "tiny", []))
    with pytest.raises(InputError, match="gives no vectors"):
        asyncio.run(engine.embed("tiny", PROMPTS[0]))


@pytest.mark.parametrize(("number", "pooling"), [(1, "mean"), (2, "cls"), (3, "last")])
def test_an_embedding_models_vectors_are_those_of_plain_transformers(base, tmp_path, number, pooling):
    from transformers import AutoModel

    engine = GgufEngine("tiny", write_gguf(base, tmp_path / "model.gguf", pooling_type=number), n_threads=1)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(str(base), dtype=torch.float32).eval()(input_ids=ids).last_hidden_state
    expected = pooled(hidden, torch.ones_like(ids), pooling)[0].tolist()
    assert not engine.writes
    assert asyncio.run(engine.embed("tiny", PROMPTS[0])) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(InputError, match="writes no text"):
        asyncio.run(answer(engine, "tiny", PROMPTS[0]))


def test_a_token_that_the_model_does_not_have_is_refused(engine):
    with pytest.raises(UserError, match="invalid tokens"):
        asyncio.run(answer(engine, "tiny", [5, 100_000]))


def test_a_process_that_ends_fails_its_answers_and_is_started_again(files):
    folder, _ = files

    async def scenario():
        engine = GgufEngine("tiny", folder / "base", n_parallel=1, n_threads=1)
        said = tokens(await answer(engine, "tiny", PROMPTS[0]))
        stream = engine.generate("tiny", PROMPTS[0], SamplingParams(max_tokens=100, temperature=0.0))
        await anext(stream)
        os.kill(engine._models["tiny"].server.pid, signal.SIGKILL)
        with pytest.raises(DeploymentError, match="ended while it worked"):
            await anext(stream)
        assert tokens(await answer(engine, "tiny", PROMPTS[0])) == said
        assert engine.tokenizer("A llama?")["input_ids"]

    asyncio.run(scenario())


def test_an_unloaded_version_is_freed_and_its_answer_is_written_to_the_end(files, models):
    folder, _ = files

    async def scenario():
        engine = GgufEngine("tiny", folder / "base", n_parallel=1, n_threads=1)
        await engine.load_adapter("bot", folder / "other")
        pid = engine._models["bot"].server.pid
        stream = engine.generate("bot", PROMPTS[0], SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0))
        said = [await anext(stream)]
        await engine.unload_adapter("bot")
        assert engine.loaded == ["tiny"]
        said += [step async for step in stream]
        assert tokens(said) == generate(models["other"], PROMPTS[0])
        del stream
        gc.collect()
        assert gone(pid)
        with pytest.raises(NotFoundError, match="bot"):
            await answer(engine, "bot", PROMPTS[0])
        with pytest.raises(InputError, match="base model"):
            await engine.unload_adapter("tiny")

    asyncio.run(scenario())


def test_a_replica_that_is_killed_leaves_no_process_behind(files):
    folder, _ = files
    script = """
import sys, time
from pathlib import Path
from llamafarm_ray.serving.deployment.engine_replica import EngineSettings, open_engine
engine = open_engine(EngineSettings("gguf", "tiny", Path(sys.argv[1]), options={"n_parallel": 1, "n_threads": 1}))
print("pid", engine._models["tiny"].server.pid, flush=True)
time.sleep(600)
"""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "base")], stdout=subprocess.PIPE, text=True, env=path
    ) as replica:
        pid = next(int(line.split()[1]) for line in replica.stdout if line.startswith("pid "))
        os.kill(pid, 0)
        replica.kill()
    assert gone(pid)


def gone(pid, within_s=10):
    deadline = time.monotonic() + patience(within_s)
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_ubatch": 0}, r"engine_kwargs\.n_ubatch is 0"),
        ({"flash_attention": "on"}, r"engine_kwargs\.flash_attention is 'on'"),
        ({"cache_type": "q4_9"}, r"cache_type is 'q4_9'"),
        ({"cache_type": "q8_0", "flash_attention": False}, r"'q8_0', and flash_attention is false"),
    ],
)
def test_options_that_llama_cpp_does_not_have_are_refused(files, options, told):
    with pytest.raises(InputError, match=told):
        GgufEngine("tiny", files[0] / "base", **options)


def test_options_of_cache_batch_and_attention_reach_llama_cpp(files, models):
    import xllamacpp

    from llamafarm_ray.serving.engines.gguf.process import _parameters
    from llamafarm_ray.serving.engines.gguf.server import LlamaSettings

    options = {"n_batch": 64, "n_ubatch": 32, "flash_attention": True, "cache_type": "q8_0"}
    asked = LlamaSettings("x.gguf", None, 128, 1, 1, embedding=False, **options)
    made = _parameters({**asdict(asked), "socket": "a.sock", "key": "k"})
    assert (made.n_batch, made.n_ubatch) == (64, 32)
    assert made.cache_type_k == made.cache_type_v == int(xllamacpp.ggml_type.GGML_TYPE_Q8_0)
    assert made.flash_attn_type == int(xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED)

    async def answered():
        engine = GgufEngine("tiny", files[0] / "base", n_parallel=1, n_threads=1, n_ubatch=32, flash_attention=False)
        return tokens(await answer(engine, "tiny", PROMPTS[0]))

    assert asyncio.run(answered()) == generate(models["tiny"], PROMPTS[0])
