"""A converted model answers as its source, says what it was made from, and is refused if it would not."""

import asyncio
import dataclasses
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from engine_answers import answer, generate, tokens
from family_models import FAMILIES, write_family_model
from gguf_files import write_gguf
from method_models import randomise, trained, wrapped
from safetensors.torch import load_file
from tiny_model import make_tiny_model
from tokenizers import normalizers

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import ConflictError, InputError, IntegrityError, NotFoundError, UnsupportedError
from llamafarm_ray.models.convert import conversion, measure
from llamafarm_ray.models.convert.exports import onnx_file
from llamafarm_ray.models.convert.exports.onnx_file import ONNX_NAME, write_onnx_model
from llamafarm_ray.models.loading import load_model
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.lineage import trace
from llamafarm_ray.storage import Location, Manifest
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.models import convert as convert_workflow
from llamafarm_ray.workflows.models.convert import convert
from llamafarm_ray.workflows.models.onnx_runtime import ONNX
from llamafarm_ray.workflows.versions.register import Registration, register, stated

TEXT = "How many legs does a spider have? <|im_start|>"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_family_model(tmp_path_factory.mktemp("convert") / "base", "llama")


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


@torch.no_grad()
def logits(folder):
    ids = load_tokenizer(folder)(TEXT, return_tensors="pt")["input_ids"]
    return load_model(folder, dtype=torch.float32).eval()(input_ids=ids).logits


def test_there_and_back_is_the_same_model(base, registry, tmp_path):
    there = convert(registry, str(base), tmp_path / "there", to="gguf", precision="fp32")
    back = convert(registry, str(there.path), tmp_path / "back", to="safetensors")
    assert (there.precision, back.precision) == ("fp32", "fp32")
    assert torch.allclose(logits(tmp_path / "back"), logits(base), atol=1e-4)
    assert back.difference["greedy_agreement"] == 1.0
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization_config" not in config
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"] == 1
    assert load_tokenizer(tmp_path / "back").chat_template == load_tokenizer(base).chat_template
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"model.gguf", "conversion.json", "training.json"}


@pytest.mark.parametrize(
    ("precision", "kinds"),
    [("bf16", {"F32", "BF16"}), ("q8_0", {"F32", "Q8_0"}), ("q4_k_m", {"F32", "Q5_0", "Q8_0"})],
)
def test_weights_have_the_types_of_the_precision(base, registry, tmp_path, precision, kinds):
    from gguf import GGMLQuantizationType

    made = convert(registry, str(base), tmp_path / "out", to="gguf", precision=precision.upper())
    found = read_gguf(tmp_path / "out" / "model.gguf").entries
    assert {GGMLQuantizationType(entry.kind).name for entry in found} == kinds
    assert 0 < made.difference["mean_kl"] < 0.25


def test_quantized_weights_are_expanded_to_bf16(registry, tmp_path):
    write_gguf(make_tiny_model(tmp_path / "base"), tmp_path / "q8" / "model.gguf", kind="Q8_0")
    made = convert(registry, str(tmp_path / "q8" / "model.gguf"), tmp_path / "out", to="safetensors")
    assert made.precision == "bf16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert torch.allclose(logits(tmp_path / "out"), logits(tmp_path / "base"), atol=0.02)


def test_a_model_in_a_wheel_is_converted(registry, tmp_path):
    write_gguf(make_tiny_model(tmp_path / "base"), tmp_path / "model.gguf")
    with zipfile.ZipFile(tmp_path / "tiny.whl", "w") as wheel:
        wheel.write(tmp_path / "model.gguf", "package/tiny.gguf")
        wheel.writestr("package/__init__.py", "raise SystemExit('this code must not run')")
    made = convert(registry, str(tmp_path / "tiny.whl"), tmp_path / "out", to="safetensors")
    assert torch.allclose(logits(tmp_path / "out"), logits(tmp_path / "base"), atol=1e-4)
    assert made.source_digest == Manifest.of_file(renamed(tmp_path / "model.gguf", "tiny.gguf")).digest
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def renamed(path, name):
    return path.rename(path.with_name(name))


# Of a Qwen2 folder transformers' tokenizer adds a token that the tiny model lacks. llama.cpp takes LongRoPE's long
# factors for short texts, too, if the context is longer than the original one.
@pytest.mark.long
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in {"qwen2", "phi3, long positions"}])
def test_llama_cpp_computes_each_family_as_transformers_does(registry, tmp_path, family):
    source = write_family_model(tmp_path / "source", family)
    made = convert(registry, str(source), tmp_path / "out", to="gguf", precision="fp32")
    assert (made.difference["greedy_agreement"], made.notes) == (1.0, [])


def test_what_answers_differently_does_not_appear_and_its_worst_layer_is_named(base, registry, tmp_path, monkeypatch):
    real = conversion.write_gguf_model

    def broken(model, *arguments, **options):
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(3)
        real(model, *arguments, **options)

    monkeypatch.setattr(conversion, "write_gguf_model", broken)
    with pytest.raises(IntegrityError, match=r"differs too much from its source.*Layer 1 adds most"):
        convert(registry, str(base), tmp_path / "out", to="gguf")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_other_tokens_are_refused(base, registry, tmp_path, monkeypatch):
    real = conversion.load_gguf_tokenizer

    def broken(header):
        tokenizer = real(header)
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        return tokenizer

    monkeypatch.setattr(conversion, "load_gguf_tokenizer", broken)
    with pytest.raises(IntegrityError, match="tokenizer makes"):
        convert(registry, str(base), tmp_path / "out", to="gguf")
    assert not (tmp_path / "out").exists()


def test_a_conversion_says_what_it_was_made_from(base, registry, tmp_path):
    source = register(registry, Registration(base, name="tiny"))
    made = convert(registry, "tiny", tmp_path / "out", to="gguf", precision="q8_0")
    said = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert said["source_digest"] == source.registered.manifest
    assert said["difference"] == made.difference
    assert {"llamafarm_ray", "transformers", "gguf"} <= said["tools"].keys()
    record = register(registry, Registration(made.path, name="tiny-q8", facts=stated(base_model=made.base_model)))
    assert record.registered.kind is ModelKind.QUANTIZED
    assert record.registered.derived_from == (source.registered.manifest,)
    assert record.registered.parameters["precision"] == "q8_0"
    assert record.registered.parameters["difference"]["mean_kl"] == made.difference["mean_kl"]
    edges = {(edge.source, edge.target, edge.relation) for edge in trace(registry.state, "tiny-q8", "down").edges}
    assert (f"model:{record.ref}", f"model:{source.ref}", "is derived from") in edges


def test_licence_card_and_named_templates_go_there_and_back(registry, tmp_path):
    source = make_tiny_model(tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (source / "LICENSE").write_text("Apache")
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(source)
    (source / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(source)
    there = convert(registry, str(source), tmp_path / "there", to="gguf", precision="fp32").path
    assert (there / "README.md").read_bytes() == (source / "README.md").read_bytes()
    assert (there / "LICENSE").read_text() == "Apache"
    assert read_gguf(there / "model.gguf").facts["general.license"] == "apache-2.0"
    assert register(registry, Registration(there, name="tiny-gguf")).registered.license == "apache-2.0"
    back = convert(registry, str(there / "model.gguf"), tmp_path / "back", to="safetensors").path
    assert "license: apache-2.0" in (back / "README.md").read_text()
    assert load_tokenizer(back).chat_template == tokenizer.chat_template
    back = convert(registry, "tiny-gguf", tmp_path / "registered", to="safetensors").path
    assert (back / "LICENSE").read_text() == "Apache"


@pytest.fixture(scope="module")
def in_onnx(base, tmp_path_factory):
    """A registry with ``tiny:1.0.0``, that version converted to ONNX, and a copy of the export that was measured."""
    folder = tmp_path_factory.mktemp("in-onnx")
    registry = RegistryService(Location(folder / "home"), principal="ann")
    register(registry, Registration(base, name="tiny"))

    def write_and_keep(source, output, precision):
        write_onnx_model(source, output, precision)
        shutil.copytree(output, folder / "export")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(convert_workflow._EXPORTS, "onnx", dataclasses.replace(ONNX, write=write_and_keep))
        made = convert(registry, "tiny", folder / "out", to="onnx")
    return registry, made, folder / "export"


def test_a_model_in_onnx_answers_in_its_engine_as_its_source(base, in_onnx):
    from llamafarm_ray.serving.engines.onnx import onnx_engine

    registry, made, _ = in_onnx
    assert (made.precision, made.difference["greedy_agreement"]) == ("fp32", 1.0)
    names = {path.name for path in made.path.iterdir()}
    assert {"model.onnx", "model.onnx.data", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not names & {"layers.onnx", "model.safetensors"}
    engine = onnx_engine("tiny", made.path, n_threads=1)
    prompt = [5, 40, 77, 300, 12]
    expected = generate(load_model(base, dtype=torch.float32).eval(), prompt)
    assert tokens(asyncio.run(answer(engine, "tiny", prompt))) == expected
    said = json.loads((made.path / "conversion.json").read_text())
    assert {"onnx", "onnxscript", "onnxruntime"} <= said["tools"].keys()
    record = register(registry, Registration(made.path, name="tiny-onnx", facts=stated(base_model=made.base_model)))
    assert record.registered.kind is ModelKind.QUANTIZED
    assert record.registered.derived_from == (registry.resolve("tiny").registered.manifest,)


@pytest.mark.long
def test_a_gguf_file_becomes_onnx_in_half_precision(base, registry, tmp_path):
    source = convert(registry, str(base), tmp_path / "gguf", to="gguf", precision="fp32").path / "model.gguf"
    made = convert(registry, str(source), tmp_path / "out", to="onnx", precision="fp16")
    assert 0 < made.difference["mean_kl"] < 0.01
    assert (made.path / "model.onnx.data").stat().st_size < 0.6 * (base / "model.safetensors").stat().st_size
    assert load_tokenizer(made.path).chat_template == load_tokenizer(base).chat_template


def test_an_onnx_file_that_answers_differently_does_not_appear(base, registry, in_onnx, tmp_path, monkeypatch):
    *_, export = in_onnx

    def write_broken(_source, folder, _precision):
        shutil.copytree(export, folder, dirs_exist_ok=True)
        triple_last(folder, load_file(base / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].T.shape)

    monkeypatch.setitem(convert_workflow._EXPORTS, "onnx", dataclasses.replace(ONNX, write=write_broken))
    with pytest.raises(IntegrityError, match=r"in onnx at fp32 differs too much.*Layer 1 adds most"):
        convert(registry, str(base), tmp_path / "out", to="onnx")
    assert not (tmp_path / "out").exists()


def triple_last(folder, shape):
    """Multiply the last weight of a shape in an export by three."""
    import onnx

    model = onnx.load(folder / ONNX_NAME, load_external_data=False)
    weight = [one for one in model.graph.initializer if tuple(one.dims) == tuple(shape)][-1]
    said = {entry.key: entry.value for entry in weight.external_data}
    file = np.memmap(folder / said["location"], "<f4", "r+", int(said["offset"]), tuple(shape))
    file *= 3
    file.flush()


def test_a_conversion_to_onnx_names_the_libraries_that_it_lacks(base, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_LIBRARIES", ("onnx", "no_such_library"))
    with pytest.raises(UnsupportedError, match="needs no_such_library") as caught:
        convert(registry, str(base), tmp_path / "out", to="onnx")
    assert "llamafarm_ray[onnx]" in caught.value.hint


def test_pickled_weights_are_read_where_that_is_asked_for(base, registry, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(base, source)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    arguments = ["models", "convert", str(source), "--to", "safetensors", "--output", str(tmp_path / "out")]
    arguments += ["--home", str(tmp_path / "home")]
    assert run(arguments) != 0
    assert "pickled code" in capsys.readouterr().err
    assert run([*arguments, "--convert-pickle"]) == 0
    assert torch.equal(logits(tmp_path / "out"), logits(base))
    said = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert said["pickles"] == ["pytorch_model.bin"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_adapter_in_gguf_is_let_in_by_an_evaluation_on_a_gguf_form_of_its_base(registry, tmp_path):
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
    from llamafarm_ray.serving.routing.resolution import resolve
    from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
    from llamafarm_ray.workflows.evaluation.results import store_result
    from llamafarm_ray.workflows.evaluation.run import EvaluationRun

    make_lora(make_tiny_model(tmp_path / "base"), tmp_path / "lora", r=4)
    register(registry, Registration(tmp_path / "base", name="tiny"))
    register(registry, Registration(tmp_path / "lora", name="bot", facts=stated(base_model="tiny")))
    form = convert(registry, "tiny", tmp_path / "q8", to="gguf", precision="q8_0")
    form = register(registry, Registration(form.path, name="tiny-q8", facts=stated(base_model="tiny")))
    update = convert(registry, "bot", tmp_path / "bot-gguf", to="gguf")
    register(registry, Registration(update.path, name="bot-gguf", facts=stated(base_model=update.base_model)))
    served = {"base_name": "tiny-q8", "base_digest": form.registered.manifest}
    with pytest.raises(NotFoundError, match=r"Evaluate it there first: .*--model bot-gguf:1.0.0 --base-model tiny-q8"):
        resolve("bot-gguf", registry.state, **served)
    config = parse_config({"base_model": "tiny-q8"})
    found = EvaluatedModel.find(config, registry, "bot-gguf")
    assert (found.is_gguf, found.is_elsewhere, found.base_weights) == (True, True, form.registered.manifest)
    assert (found.adapter / "adapter.gguf").is_file()
    store_result(
        registry,
        found,
        EvaluationResult("bot-gguf:1.0.0", "2026-11-29T00:00:00Z", {"held_out": BenchmarkScores({"perplexity": 1.2})}),
    )
    assert resolve("bot-gguf", registry.state, **served).ref == "bot-gguf:1.0.0"
    with pytest.raises(InputError, match=r"is an adapter in safetensors, which llama.cpp can't add to it") as caught:
        EvaluatedModel.find(config, registry, "bot")
    assert "models convert bot:1.0.0 --to gguf" in caught.value.hint
    with pytest.raises(InputError, match="tiny is no GGUF file"):
        EvaluatedModel.find(parse_config({"base_model": "tiny"}), registry, "bot-gguf")
    (tmp_path / "q.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    asked = parse_config({"base_model": "tiny-q8", "evaluation": {"questions": str(tmp_path / "q.jsonl")}})
    assert EvaluationRun.prepare(asked, registry, "bot-gguf").model.is_gguf


@pytest.mark.parametrize("named", ["tiny-q8", "folder"])
def test_an_adapter_in_gguf_that_names_a_gguf_file_as_its_base_is_let_in_by_an_evaluation_too(
    registry, tmp_path, named
):
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult
    from llamafarm_ray.serving.routing.resolution import resolve
    from llamafarm_ray.workflows.evaluation.model import EvaluatedModel
    from llamafarm_ray.workflows.evaluation.results import store_result

    base = make_tiny_model(tmp_path / "base")
    make_lora(base, tmp_path / "lora", r=4)
    form = convert(registry, str(base), tmp_path / "q8", to="gguf", precision="q8_0").path
    register(registry, Registration(form, name="tiny-q8", facts=stated(base_model=str(base))))
    update = convert(registry, str(tmp_path / "lora"), tmp_path / "update", to="gguf", base_model=str(base)).path
    reference = str(form) if named == "folder" else named
    register(registry, Registration(update, name="bot", facts=stated(base_model=reference)))
    served = {"base_name": "tiny-q8", "base_digest": Manifest.of_folder(form).digest}
    with pytest.raises(NotFoundError, match="Evaluate it there first"):
        resolve("bot", registry.state, **served)
    found = EvaluatedModel.find(parse_config({"base_model": reference}), registry, "bot")
    store_result(
        registry,
        found,
        EvaluationResult("bot:1.0.0", "2026-11-29T00:00:00Z", {"held_out": BenchmarkScores({"perplexity": 1.2})}),
    )
    assert resolve("bot", registry.state, **served).ref == "bot:1.0.0"


def test_an_adapter_becomes_a_gguf_file_with_the_same_updates(registry, tmp_path):
    base = make_tiny_model(tmp_path / "base")
    make_lora(base, tmp_path / "lora", r=4, use_rslora=True, rank_pattern={"q_proj": 2})
    made = convert(registry, str(tmp_path / "lora"), tmp_path / "out", to="gguf", base_model=str(base))
    assert made.difference["largest_update_difference"] < 2e-3
    header = read_gguf(tmp_path / "out" / "adapter.gguf")
    assert header.is_adapter
    assert header.tensors["blk.0.attn_q.weight.lora_a"] == (64, 2)
    assert header.facts["general.base_model.0.name"] == "base"
    record = register(
        registry, Registration(tmp_path / "out", name="lora-gguf", facts=stated(base_model=made.base_model))
    )
    assert record.registered.kind is ModelKind.ADAPTER
    assert record.registered.base_digest == Manifest.of_folder(base).digest


def test_llama_cpp_answers_with_the_converted_adapter_as_peft_does(registry, tmp_path):
    from llamafarm_ray.models.adapters import load_adapter
    from llamafarm_ray.serving.engines.gguf.engine import GgufEngine

    base = make_tiny_model(tmp_path / "base")
    make_lora(base, tmp_path / "lora", r=4, use_rslora=True, rank_pattern={"q_proj": 2})
    convert(registry, str(base), tmp_path / "base-gguf", to="gguf", precision="fp32")
    convert(registry, str(tmp_path / "lora"), tmp_path / "out", to="gguf", precision="fp32", base_model=str(base))
    model = load_adapter(load_model(base, dtype=torch.float32), tmp_path / "lora").eval()
    prompt = [5, 40, 77, 300, 12]

    async def answered():
        engine = GgufEngine("tiny", tmp_path / "base-gguf", n_parallel=1, n_threads=1)
        await engine.load_adapter("lora", tmp_path / "out")
        return [tokens(await answer(engine, name, prompt)) for name in ("tiny", "lora")]

    plain, adapted = asyncio.run(answered())
    assert adapted == generate(model, prompt)
    assert plain == generate(load_model(base, dtype=torch.float32).eval(), prompt) != adapted


def make_lora(base, folder, **parameters):
    method, model = wrapped(base, "lora", MethodParameters(**parameters))
    randomise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(2).add_(0.05)
    folder.mkdir()
    method.save(model, trained(model), folder)


def test_adapters_that_llama_cpp_does_not_add_are_refused(registry, tmp_path):
    base = make_tiny_model(tmp_path / "base")
    make_lora(base, tmp_path / "dora", r=4, use_dora=True)
    with pytest.raises(UnsupportedError, match="uses DoRA"):
        convert(registry, str(tmp_path / "dora"), tmp_path / "out", to="gguf", base_model=str(base))
    with pytest.raises(UnsupportedError, match="safetensors already"):
        convert(registry, str(tmp_path / "dora"), tmp_path / "out", to="safetensors", base_model=str(base))


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"to": "tflite"}, InputError, "no conversion to 'tflite'"),
        ({"to": "onnx", "precision": "bf16"}, InputError, "no precision 'bf16' of onnx"),
        ({"to": "openvino", "precision": "int4"}, InputError, "no precision 'int4' of openvino"),
        ({"to": "mlx", "precision": "q8_0"}, InputError, "no precision 'q8_0' of mlx"),
        ({"to": "gguf", "precision": "q4"}, InputError, "no precision 'q4'"),
        ({"to": "safetensors", "precision": "q8_0"}, InputError, "no precision 'q8_0'"),
        ({"to": "gguf", "base_model": "x"}, InputError, "for adapters"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(base, registry, tmp_path, options, error, told):
    with pytest.raises(error, match=told):
        convert(registry, str(base), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_outputs_are_not_overwritten_and_sources_exist(base, registry, tmp_path):
    with pytest.raises(NotFoundError, match="nothing-there"):
        convert(registry, "nothing-there", tmp_path / "out", to="gguf")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConflictError, match="exists already"):
        convert(registry, str(base), tmp_path / "out", to="gguf")
    with pytest.raises(InputError, match="The output is a folder"):
        convert(registry, str(base), tmp_path / "model.gguf", to="gguf")


def test_the_command_prints_a_table_or_json_and_registers(base, tmp_path, capsys):
    options = ["--to", "gguf", "--precision", "bf16", "--home", str(tmp_path / "home")]
    assert run(["models", "convert", str(base), "--output", str(tmp_path / "a"), *options, "--name", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "mean divergence" in printed
    assert "Registered tiny:" in printed
    assert run(["models", "convert", str(base), "--output", str(tmp_path / "b"), *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["precision"] == "bf16"
    assert said["difference"]["num_tokens"] > 300


def test_the_held_out_text_is_in_the_package():
    assert len(measure.held_out_text().split()) > 300
