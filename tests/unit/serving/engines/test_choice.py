"""Files decide, vLLM serves what it can, transformers the rest; a wrong choice is refused before anything starts."""

import json
import shutil

import pytest
from model_files import ONNX, gguf_bytes, safetensors_bytes
from tiny_adapters import write_adapter
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.config import MethodParameters, parse_config
from llamafarm_ray.errors import InputError, UnsupportedError, UserError
from llamafarm_ray.models.sentence_files import write_sentence_transformers_files
from llamafarm_ray.registry import RegistryService, find_base
from llamafarm_ray.serving.deployment.engine_replica import EngineSettings, engine_settings, open_engine
from llamafarm_ray.serving.engines.choice import choose_engine
from llamafarm_ray.serving.engines.custom import custom_engine
from llamafarm_ray.storage import Location
from llamafarm_ray.training.methods import METHODS
from llamafarm_ray.types import ModelKind


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"))


@pytest.fixture
def base(tmp_path, registry):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    make_tiny_tokenizer().save_pretrained(str(folder))
    return find_base(str(folder), registry)


TYPES = {"adapter": "BOTTLENECK", "prefix_tuning": "PREFIX_TUNING", "hybrid_lora_adapter": "HYBRID_LORA_ADAPTER"}
"""The types that methods save, as peft spells them; the others save LORA."""


def registered(registry, tmp_path, base, method="lora", facts=None, **config):
    folder = tmp_path / f"{method}-{len(registry.state.models)}"
    write_adapter(folder, base.folder, **{"peft_type": TYPES.get(method, "LORA"), **config})
    record = registry.register(
        folder, name=folder.name, kind=ModelKind.ADAPTER, method=method, base_digest=base.digest, adapter=facts
    )
    return record.ref


ADAPTER_METHODS = [(name, False) for name, method in METHODS.items() if method.kind is ModelKind.ADAPTER]


@pytest.mark.parametrize(("name", "use_dora"), [*ADAPTER_METHODS, ("lora", True), ("qlora", True)])
def test_the_choice_is_what_training_says_of_its_methods(registry, tmp_path, base, name, use_dora):
    served_by = METHODS[name](MethodParameters(use_dora=use_dora)).served_by
    ref = registered(registry, tmp_path, base, name, **({"use_dora": True} if use_dora else {}))
    assert choose_engine("auto", base, [ref], registry) == {"vllm": "vllm", "peft": "transformers"}[served_by]


BEYOND_VLLM = {
    "type": {"peft_type": "IA3"},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "all"},
    "a bias of the update": {"lora_bias": True},
    "trained tokens": {"trainable_token_indices": [1]},
    "replicated layers": {"layer_replication": [[0, 2], [0, 2]]},
    "parameters": {"target_parameters": ["mlp.weight"]},
    "DoRA": {"use_dora": True},
    "no rank": {"r": None},
}


@pytest.mark.parametrize("config", BEYOND_VLLM.values(), ids=BEYOND_VLLM)
def test_a_feature_that_vllm_lacks_decides_before_an_engine_is_started(registry, tmp_path, base, config):
    ref = registered(registry, tmp_path, base, **config)
    assert choose_engine("auto", base, [ref], registry) == "transformers"
    with pytest.raises(UnsupportedError, match=rf"engine is vllm, and {ref} has .*auto or transformers"):
        choose_engine("vllm", base, [ref], registry)


def test_the_findings_of_the_registration_stand(registry, tmp_path, base):
    ref = registered(registry, tmp_path, base, facts={"proved": True, "not_for_vllm": "whole embeddings of its own"})
    assert choose_engine("auto", base, [ref], registry) == "transformers"


def test_one_adapter_that_vllm_cannot_serve_decides_for_all(registry, tmp_path, base):
    refs = [registered(registry, tmp_path, base, method) for method in ("lora", "adapter")]
    assert choose_engine("auto", base, refs, registry) == "transformers"
    assert choose_engine("auto", base, refs[:1], registry) == "vllm"
    assert choose_engine("auto", base, [], registry) == "vllm"


def test_the_users_choice_wins_where_it_can_work(registry, tmp_path, base):
    lora, bottleneck = (registered(registry, tmp_path, base, method) for method in ("lora", "adapter"))
    assert choose_engine("transformers", base, [lora], registry) == "transformers"
    assert choose_engine("custom", base, [bottleneck], registry) == "custom"
    with pytest.raises(
        UnsupportedError, match=r"deployment\.engine is vllm, and adapter-1:1\.0\.0 has the type BOTTLENECK"
    ):
        choose_engine("vllm", base, [lora, bottleneck], registry)


def test_an_embedding_model_is_served_by_transformers_and_by_vllm_where_that_is_asked_for(registry, tmp_path, base):
    write_sentence_transformers_files(base.folder, width=8, max_length=64, pooling="mean")
    assert choose_engine("auto", base, [], registry) == "transformers"
    same = registered(registry, tmp_path, base, "lora")
    assert choose_engine("vllm", base, [same], registry) == "vllm"


def test_an_adapter_that_is_pooled_otherwise_is_nothing_for_vllm(registry, tmp_path, base):
    write_sentence_transformers_files(base.folder, width=8, max_length=64, pooling="mean")
    folder = registry.pull(registered(registry, tmp_path, base, "lora"))
    copy = tmp_path / "otherwise"
    shutil.copytree(folder, copy)
    write_sentence_transformers_files(copy, width=8, max_length=64, pooling="last")
    other = registry.register(copy, name="otherwise", kind=ModelKind.ADAPTER, base_digest=base.digest, method="lora")
    with pytest.raises(UnsupportedError, match=r"otherwise:1\.0\.0 is pooled otherwise than its base model"):
        choose_engine("vllm", base, [other.ref], registry)
    assert choose_engine("auto", base, [other.ref], registry) == "transformers"
    said = {"pooling_mode_weightedmean_tokens": True}  # its adapters say another; nobody has to be able to do this one
    (base.folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    assert {choose_engine(asked, base, [other.ref], registry) for asked in ("auto", "transformers")} == {"transformers"}


def base_of(registry, folder, **files):
    """A base model in a folder of its own."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name.replace("_", ".", 1)).write_bytes(data)
    return find_base(str(folder), registry)


def test_the_files_decide(registry, tmp_path, base):
    gguf = base_of(registry, tmp_path / "q4", model_gguf=gguf_bytes())
    onnx = base_of(registry, tmp_path / "onnx", model_onnx=ONNX, config_json=b"{}")
    both = base_of(registry, tmp_path / "both", model_gguf=gguf_bytes(), model_safetensors=safetensors_bytes())
    chosen = [choose_engine("auto", one, [], registry) for one in (base, gguf, onnx, both)]
    assert chosen == ["vllm", "gguf", "onnx", "vllm"]
    assert choose_engine("gguf", both, [], registry) == "gguf"
    file = find_base(str(tmp_path / "q4" / "model.gguf"), registry)
    assert (file.name, file.digest) == ("model", gguf.digest)
    assert choose_engine("auto", file, [], registry) == "gguf"
    for asked, one in (("gguf", base), ("onnx", gguf), ("vllm", gguf), ("transformers", onnx)):
        with pytest.raises(UnsupportedError, match=f"engine is {asked}, and the base model .* holds no"):
            choose_engine(asked, one, [], registry)


def test_what_is_deployed_beside_a_gguf_file_is_gguf_too(registry, tmp_path, base):
    gguf = base_of(registry, tmp_path / "q4", model_gguf=gguf_bytes())
    other = registry.register(tmp_path / "q4", name="q5", kind=ModelKind.QUANTIZED, base_digest=base.digest)
    assert choose_engine("auto", gguf, [other.ref], registry) == "gguf"
    with pytest.raises(UnsupportedError, match=r"engine is gguf, and lora-1:1\.0\.0 holds no gguf file"):
        choose_engine("auto", gguf, [registered(registry, tmp_path, base)], registry)


def settings(base, engine, **deployment):
    return engine_settings(engine, base, parse_config({"base_model": "x", "deployment": deployment}).deployment)


def test_options_that_an_engine_does_not_have_are_refused(base):
    assert settings(base, "transformers", engine_kwargs={"dtype": "bfloat16"}).options == {"dtype": "bfloat16"}
    assert settings(base, "gguf", engine_kwargs={"n_parallel": 2}).options == {"n_parallel": 2}
    with pytest.raises(InputError, match=r"engine_kwargs\.dtyp is no option.*Did you mean dtype"):
        settings(base, "transformers", engine_kwargs={"dtyp": "bfloat16"})
    with pytest.raises(UnsupportedError, match="computes on one"):
        settings(base, "transformers", resources={"gpu": 2})


def test_a_users_class_is_loaded_and_serves_versions(base, tmp_path):
    import asyncio

    from llamafarm_ray.serving.engines.base import SamplingParams

    version = tmp_path / "version"
    version.mkdir()
    (version / "token.json").write_text('{"token": 9}')
    (base.folder / "token.json").write_text('{"token": 7}')
    engine = open_engine(EngineSettings("custom", "base", base.folder, options={"model": "engines:Constant"}))

    async def answers():
        await engine.load_adapter("bot", version)
        with pytest.raises(UserError, match=r"can't load broken: FileNotFoundError"):
            await engine.load_adapter("broken", tmp_path)
        params = SamplingParams(max_tokens=2)
        return [[step.token.token_id async for step in engine.generate(name, [1], params)] for name in ("base", "bot")]

    assert asyncio.run(answers()) == [[7, 7], [9, 9]]
    assert engine.loaded == ["base", "bot"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "needs a class"),
        ("engines", "needs a class"),
        ("engines:Nope", "can't be imported"),
        ("no_such_module:X", "can't be imported"),
        ("engines:Parrot", "is no CustomModel"),
        ("engines:WORDS", "is no CustomModel"),
    ],
)
def test_a_class_that_is_none_is_refused(base, name, told):
    with pytest.raises(InputError, match=told):
        custom_engine("base", base.folder, model=name)


def test_quantized_weights_that_vllm_has_no_cpu_kernels_for_are_served_by_transformers(base, registry):
    weights = {"num_bits": 8, "type": "int"}
    packed = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    (base.folder / "config.json").write_text(json.dumps({"quantization_config": packed}))
    assert choose_engine("auto", base, [], registry) == "transformers"
    assert choose_engine("auto", base, [], registry, on_gpu=True) == "vllm"
    with pytest.raises(
        UnsupportedError, match="weights in 8 bits beside inputs in 16, which vLLM is not used for on a CPU"
    ):
        choose_engine("vllm", base, [], registry)
    weights["num_bits"] = 4
    (base.folder / "config.json").write_text(json.dumps({"quantization_config": packed}))
    assert choose_engine("auto", base, [], registry) == "vllm"
