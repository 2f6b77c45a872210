"""An embedding model and its adapters give the vectors that plain transformers gives, pooled as their files say."""

import asyncio

import pytest
import torch
from method_models import make_model, randomise, reload, trained, wrapped
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.sentence_files import read_pooling, write_sentence_transformers_files
from llamafarm_ray.serving.engines.base import SamplingParams
from llamafarm_ray.serving.engines.transformers import transformers_engine

TOKENS = [5, 17, 42, 8]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("embedding") / "bert", "bert", task="embedding")
    make_tiny_tokenizer().save_pretrained(str(folder))
    write_sentence_transformers_files(folder, width=32, max_length=64, pooling="mean")
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A LoRA adapter that was trained to be read at the first token."""
    folder = tmp_path_factory.mktemp("lora")
    method, model = wrapped(base, "lora", task="embedding")
    randomise(model)
    method.save(model, trained(model), folder)
    write_sentence_transformers_files(folder, width=32, max_length=64, pooling="cls")
    return folder


def expected(model, pooling):
    ids = torch.tensor([TOKENS])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        return pooled(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, pooling)[0].tolist()


def test_vectors_are_those_of_plain_transformers(base, adapter):
    import transformers

    async def scenario():
        engine = transformers_engine("bert", base)
        await engine.load_adapter("bot", adapter)
        assert not engine.writes
        with pytest.raises(InputError, match="writes no text"):
            await anext(engine.generate("bot", TOKENS, SamplingParams(max_tokens=1)))
        return [await engine.embed(name, TOKENS) for name in ("bert", "bot")]

    of_base, of_adapter = asyncio.run(scenario())
    plain = transformers.AutoModel.from_pretrained(str(base), dtype=torch.float32).eval()
    assert of_base == pytest.approx(expected(plain, "mean"), abs=1e-5)
    assert of_adapter == pytest.approx(expected(reload(base, adapter, task="embedding"), "cls"), abs=1e-5)
    assert of_base != pytest.approx(of_adapter, abs=1e-2)


def test_pooling_is_read_from_the_files_and_what_is_not_done_is_refused(base, adapter, tmp_path):
    assert [read_pooling(folder) for folder in (base, adapter, tmp_path, None)] == ["mean", "cls", None, None]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match="pooling_mode_max_tokens"):
        read_pooling(tmp_path)


def test_a_text_that_is_too_long_is_refused(base):
    engine = transformers_engine("bert", base, max_model_len=8)
    with pytest.raises(InputError, match="8 is the most"):
        asyncio.run(engine.embed("bert", TOKENS * 3))
