"""The engine for pairs is the one that is named; `auto` takes the best that is there, and says why."""

import pytest

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation import choose_generator
from llamafarm_ray.errors import InputError

URL = "http://localhost:8000/v1"
KEY = {"OPENAI_API_KEY": "secret"}


def choose(engine, *, base_model=None, environment=None, vllm=None, **endpoint):
    qa = QaGeneration.model_validate({"model": engine, "endpoint": endpoint, "vllm": vllm or {}})
    return choose_generator(qa, base_model=base_model, environment=environment or {})


@pytest.mark.parametrize(
    ("chosen", "generator", "model", "url", "because"),
    [
        (choose("rules", environment=KEY), "rules", "", "", "'rules'"),
        (choose("base_model", base_model="/m"), "base_model", "/m", "", "'base_model'"),
        (choose("gpt-4o", environment=KEY), "endpoint", "gpt-4o", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        (choose("q", environment={"OPENAI_BASE_URL": URL} | KEY), "endpoint", "q", URL, "OPENAI_BASE_URL"),
        (choose("q", base_url=URL, environment={"OPENAI_BASE_URL": "http://x"}), "endpoint", "q", URL, "base_url"),
        (choose("q", environment={"MY_KEY": "s"}, api_key_env="MY_KEY"), "endpoint", "q", None, "MY_KEY"),
        (choose("auto", base_url=URL, model="q", base_model="/m"), "endpoint", "q", URL, "base_url"),
        (choose("auto", environment=KEY, model="q"), "endpoint", "q", None, "OPENAI_API_KEY"),
        (choose("auto", environment=KEY, base_model="/m"), "base_model", "/m", "", "endpoint.model is not"),
        (choose("auto", base_model="/m"), "base_model", "/m", "", "No endpoint"),
        (choose("auto"), "rules", "", "", "no base model"),
        (choose("vllm", base_model="/m"), "vllm", "/m", "", "'vllm'"),
        (choose("vllm", base_model="/m", vllm={"model": "/w"}), "vllm", "/w", "", "'vllm'"),
        (choose("auto", base_model="/m", vllm={"model": "/w"}), "vllm", "/w", "", "names a model for vLLM"),
        (choose("auto", base_url=URL, model="q", vllm={"model": "/w"}), "endpoint", "q", URL, "base_url"),
    ],
)
def test_the_choice_and_its_reason(chosen, generator, model, url, because):
    assert (chosen.generator, chosen.model) == (generator, model)
    assert url is None or chosen.base_url == url
    assert because in chosen.reason


@pytest.mark.parametrize(
    ("size", "has_gpu", "generator"),
    [
        (2_000_000, True, "rules"),
        (270_000_000, False, "base_model"),
        (3_000_000_000, False, "rules"),
        (3_000_000_000, True, "base_model"),
    ],
)
def test_a_base_model_writes_if_it_can_and_does_not_take_hours(tmp_path, size, has_gpu, generator):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    qa = QaGeneration()
    chosen = choose_generator(qa, base_model=str(tmp_path), environment={}, has_gpu=has_gpu)
    assert (chosen.generator, "base model" in chosen.reason) == (generator, True)


@pytest.mark.parametrize(
    ("model", "endpoint", "told"),
    [
        ("gpt-4o-mini-turbo", {}, "OPENAI_API_KEY"),
        ("base_model", {}, "--base-model"),
        ("vllm", {}, "qa_generation.vllm.model"),
        ("auto", {"base_url": URL}, "Name"),
    ],
)
def test_a_missing_setting_is_named(model, endpoint, told):
    with pytest.raises(InputError) as caught:
        choose(model, **endpoint)
    assert told in caught.value.hint
