"""Models in ONNX answer as transformers does with the weights they were exported from."""

import asyncio
import shutil

import pytest
import torch
from engine_answers import answer, generate, tokens
from method_models import make_model
from onnx_files import export_decoder, export_encoder
from tiny_model import make_tiny_model, make_tiny_tokenizer

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.sentence_files import write_sentence_transformers_files
from llamafarm_ray.serving.engines.onnx import onnx_engine

PROMPTS = ([5, 40, 77, 300, 12], [9, 9, 200], list(range(30, 60)))
NAMES = ("tiny", "whole")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return {name: make_tiny_model(folder / name, seed=seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def exports(bases, tmp_path_factory):
    """The base with a cache, the version without."""
    folder = tmp_path_factory.mktemp("exports")
    return {name: export_decoder(bases[name], folder / name, with_past=name == "tiny") for name in NAMES}


@pytest.fixture(scope="module")
def engine(exports):
    async def loaded():
        engine = onnx_engine("tiny", exports["tiny"], n_threads=1)
        await engine.load_adapter("whole", exports["whole"])
        return engine

    return asyncio.run(loaded())


@pytest.fixture(scope="module")
def models(bases):
    from transformers import AutoModelForCausalLM

    return {name: AutoModelForCausalLM.from_pretrained(str(base)).eval() for name, base in bases.items()}


@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_are_those_of_generate_also_beside_others(engine, models, name):
    async def together():
        answers = await asyncio.gather(*(answer(engine, name, prompt) for prompt in PROMPTS))
        return [tokens(steps) for steps in answers]

    assert asyncio.run(together()) == [generate(models[name], prompt) for prompt in PROMPTS]


def test_the_versions_answer_differently(models):
    assert generate(models["tiny"], PROMPTS[0]) != generate(models["whole"], PROMPTS[0])


@pytest.mark.parametrize("name", NAMES)
def test_log_probabilities_are_those_of_one_forward_pass(engine, models, name):
    steps = asyncio.run(answer(engine, name, PROMPTS[2], 4, logprobs=3, prompt_logprobs=2, ignore_eos=True))
    scored = [*steps[0].prompt, *(step.token for step in steps)]
    ids = [token.token_id for token in scored]
    assert ids[: len(PROMPTS[2])] == PROMPTS[2]
    with torch.no_grad():
        expected = models[name](input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    for place, token in enumerate(scored[1:]):
        assert token.logprob == pytest.approx(expected[place, token.token_id].item(), abs=1e-4)
        assert token.top[0][0] == int(expected[place].argmax())


def test_an_answer_ends_at_a_stop_token_or_where_there_is_no_more_room(engine, models):
    said = generate(models["tiny"], PROMPTS[0])
    steps = asyncio.run(answer(engine, "tiny", PROMPTS[0], stop_token_ids=(said[4],)))
    assert tokens(steps) == said[: said.index(said[4]) + 1]
    assert steps[-1].finish_reason == "stop"
    assert engine.max_model_len("tiny") == 256
    with pytest.raises(InputError, match="256 is the most"):
        asyncio.run(answer(engine, "tiny", PROMPTS[0], 252))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A model that gives vectors, and its export."""
    folder = tmp_path_factory.mktemp("encoder")
    base = make_model(folder / "bert", "bert", task="embedding")
    make_tiny_tokenizer().save_pretrained(str(base))
    return base, export_encoder(base, folder / "onnx")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_plain_transformers(encoder, tmp_path, pooling):
    from transformers import AutoModel

    base, exported = encoder
    folder = shutil.copytree(exported, tmp_path / "onnx")
    write_sentence_transformers_files(folder, width=32, max_length=64, pooling=pooling)
    engine = onnx_engine("bert", folder)
    assert not engine.writes
    ids = torch.tensor([[5, 17, 42, 8]])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(str(base)).eval()(input_ids=ids).last_hidden_state
    expected = pooled(hidden, torch.ones_like(ids), pooling)[0].tolist()
    assert asyncio.run(engine.embed("bert", ids[0].tolist())) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="writes no text"):
        asyncio.run(answer(engine, "bert", ids[0].tolist()))


def test_a_version_with_other_tokens_is_refused(engine, exports, tmp_path):
    folder = shutil.copytree(exports["whole"], tmp_path / "other")
    make_tiny_tokenizer().save_pretrained(str(folder))
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    with pytest.raises(InputError, match="another tokenizer"):
        asyncio.run(engine.load_adapter("other", folder))


def test_a_model_that_wants_more_than_is_known_is_refused(exports, tmp_path):
    import onnx

    folder = shutil.copytree(exports["whole"], tmp_path / "branch")
    model = onnx.load(folder / "model.onnx")
    model.graph.input.append(onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1]))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UnsupportedError, match="use_cache_branch"):
        onnx_engine("tiny", folder)


def test_a_file_that_onnx_runtime_cannot_load_is_refused(exports, tmp_path):
    folder = shutil.copytree(exports["whole"], tmp_path / "broken")
    (folder / "model.onnx").write_bytes(b"\x08\x0a\x3a\x00")
    with pytest.raises(InputError, match="can't load"):
        onnx_engine("tiny", folder)
