"""A model is examined by its headers: whole or not, its needs, its uses; nothing hostile is run or believed."""

import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import zipfile

import fsspec
import pytest
import torch
from family_models import family_model, write_family_model
from file_server import hub_server
from gguf_files import write_gguf
from model_files import gguf_bytes, safetensors_bytes
from safetensors.torch import load_file, save_file
from tiny_adapters import write_adapter
from tiny_model import make_tiny_model, make_tiny_tokenizer

from llamafarm_ray.cli.main import run
from llamafarm_ray.errors import InputError, NotFoundError, UnsupportedError
from llamafarm_ray.models.convert.gguf_file import write_gguf_model
from llamafarm_ray.models.convert.precisions import gguf_precision
from llamafarm_ray.models.formats.files import FolderFiles, RangedFile
from llamafarm_ray.models.formats.packed_count import count_parameters
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.formats.safetensors import TensorEntry
from llamafarm_ray.workflows.inspection.inspect_model import inspect_model, inspect_opened

CARD = "---\nlicense: apache-2.0\nlanguage: [en, de]\nbase_model: tiny/one\nother: 1\n---\n# A model\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("inspect") / "base")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


def test_the_facts_of_a_model_are_those_of_its_files(base, registry):
    found = inspect_model(registry, str(base))
    seen = found.inspection
    num_values = sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values())
    assert (seen.format, seen.architecture, seen.model_type) == ("safetensors", "LlamaForCausalLM", "llama")
    assert seen.num_parameters == num_values
    assert seen.weight_bytes == {"F32": 4 * num_values}
    assert seen.memory_bytes["bf16"] == 2 * num_values
    assert (seen.context_length, seen.tokenizer, seen.has_chat_template) == (256, "BPE", True)
    assert seen.card == {"license": "apache-2.0", "language": ["en", "de"], "base_model": "tiny/one"}
    assert (seen.problems, seen.comparison.unchecked) == ([], "")
    assert "vllm" in found.served_by
    assert "lora" in found.trained_by
    assert found.size_bytes == sum(path.stat().st_size for path in base.iterdir())


def changed_base(base, folder, change):
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), "1 tensors are missing: model.layers.1.mlp"),
        (lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone()), "1 tensors belong to no part"),
        (
            lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"][:32].clone()}),
            r"1 tensors have another shape: model.norm.weight: \[32\] instead of \[64\]",
        ),
    ],
    ids=["missing", "left over", "another shape"],
)
def test_tensors_that_are_not_those_of_the_architecture_are_named(base, registry, tmp_path, change, told):
    found = inspect_model(registry, str(changed_base(base, tmp_path / "bad", change)))
    assert len(found.inspection.problems) == 1
    assert re.search(told, found.inspection.problems[0])
    assert found.served_by == found.trained_by == ()


@pytest.mark.parametrize("family", ["llama 3", "gpt2", "gemma3"])
def test_a_tied_head_is_not_missing(registry, tmp_path, family):
    folder = write_family_model(tmp_path / "tied", family)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert inspect_model(registry, str(folder)).inspection.problems == []


def test_names_without_the_prefix_that_loading_adds_are_those_of_the_architecture(registry, tmp_path):
    """The hub's gpt2 has ``h.0.attn...`` for ``transformer.h.0.attn...``."""
    folder = write_family_model(tmp_path / "inner", "gpt2")
    tensors = load_file(folder / "model.safetensors")
    inner = {name.removeprefix("transformer."): one for name, one in tensors.items()}
    assert inner.keys() != tensors.keys()
    save_file(inner, folder / "model.safetensors", metadata={"format": "pt"})
    assert inspect_model(registry, str(folder)).inspection.problems == []
    del inner["h.0.ln_1.weight"]
    save_file(inner, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 tensors are missing: transformer.h.0.ln_1" in inspect_model(registry, str(folder)).inspection.problems[0]


@pytest.mark.parametrize(
    ("scheme", "served", "trained"),
    [
        ("int4", ("vllm", "transformers"), "lora"),
        ("fp8", ("vllm", "transformers"), "lora"),
        ("nf4", ("transformers",), "qlora"),
    ],
)
def test_quantized_weights_count_as_what_they_stand_for(base, registry, tmp_path, scheme, served, trained):
    from llamafarm_ray.workflows.models.quantize import quantize

    folder = quantize(registry, str(base), tmp_path / scheme, scheme=scheme, measure=None).path
    whole = inspect_model(registry, str(base)).inspection
    found = inspect_model(registry, str(folder))
    listed = inspect_opened(FolderFiles(folder), scheme, compare=False)
    for seen in (found, listed):
        assert seen.inspection.num_parameters == whole.num_parameters
        assert seen.inspection.memory_bytes == whole.memory_bytes
        assert seen.served_by == served
        assert trained in seen.trained_by
    assert found.inspection.problems == []
    assert bool(found.notes) == (scheme == "fp8")


def test_a_quantized_model_without_a_layer_is_told(base, registry, tmp_path):
    from llamafarm_ray.workflows.models.quantize import quantize

    folder = quantize(registry, str(base), tmp_path / "int4", scheme="int4", measure=None).path
    tensors = {name: one for name, one in load_file(folder / "model.safetensors").items() if "layers.1.mlp" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "3 tensors are missing: model.layers.1.mlp" in inspect_model(registry, str(folder)).inspection.problems[0]


def test_packed_weights_of_other_methods_are_counted():
    def entry(name, dtype, *shape):
        return TensorEntry(name, dtype, shape, 0, 0)

    gptq = [entry("a.qweight", "I32", 8, 16), entry("a.qzeros", "I32", 1, 2), entry("a.scales", "F16", 1, 16)]
    norm = entry("norm.weight", "F16", 5)
    assert count_parameters([*gptq, norm], {"quant_method": "gptq", "bits": 4}) == 8 * 16 * 8 + 5
    assert count_parameters(gptq, {"quant_method": "gptq", "bits": 8}) == 8 * 16 * 4
    experts = [entry("e.w_blocks", "U8", 2, 3, 16), entry("e.w_scales", "U8", 2, 3)]
    assert count_parameters(experts, {"quant_method": "mxfp4"}) == 2 * 3 * 32
    assert count_parameters(gptq[:1], {}) == 8 * 16


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, ()),
        ({"architectures": ["BertForSequenceClassification"], "model_type": "bert"}, ()),
        ({"architectures": ["OddForCausalLM"], "quantization_config": {"quant_method": "awq"}}, ("vllm",)),
        ({"architectures": ["OddForCausalLM"]}, ("vllm", "transformers")),
    ],
)
def test_engines_are_those_that_compute_the_architecture(registry, tmp_path, config, served):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer.model").write_bytes(b"t")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(1.0))
    assert inspect_opened(FolderFiles(tmp_path), "one", compare=False).served_by == served


@pytest.mark.parametrize(
    ("config", "served"),
    [({}, ("vllm", "transformers")), ({"use_dora": True}, ("transformers",))],
    ids=["lora", "dora"],
)
def test_an_adapters_engines_are_those_of_its_method(registry, tmp_path, config, served):
    write_adapter(tmp_path / "lora", tmp_path, **config)
    assert inspect_model(registry, str(tmp_path / "lora")).served_by == served


def test_a_gguf_file_is_compared_with_its_facts(base, registry, tmp_path):
    path = write_gguf(base, tmp_path / "model.gguf", kind="Q8_0")
    found = inspect_model(registry, str(path))
    seen = found.inspection
    assert (seen.format, seen.architecture, seen.model_type) == ("gguf", "llama", "llama")
    assert (seen.problems, seen.comparison.unchecked) == ([], "")
    assert set(seen.weight_bytes) == {"F32", "Q8_0"}
    assert (found.served_by, found.trained_by) == (("gguf",), ())


@pytest.mark.parametrize("family", ["qwen2_moe", "falcon, groups of keys"])
def test_experts_and_fused_heads_in_gguf_are_compared_too(registry, tmp_path, family):
    tokenizer, path = make_tiny_tokenizer(), tmp_path / "model.gguf"
    model = family_model(family, vocab_size=len(tokenizer))
    write_gguf_model(model, tokenizer, path, gguf_precision("q8_0"), name="tiny")
    seen = inspect_model(registry, str(path)).inspection
    assert (seen.model_type, seen.problems, seen.comparison.unchecked) == (family.partition(",")[0], [], "")
    assert seen.num_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_gguf_file_without_a_layer_is_told(registry, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(llama__block_count=2))
    assert "lacks the fact" in inspect_model(registry, str(path)).inspection.comparison.unchecked


def test_a_model_in_an_archive_is_inspected_in_place(base, registry, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for path in base.iterdir():
            made.write(path, f"m/{path.name}")
    before = set(tmp_path.iterdir())
    found = inspect_model(registry, str(tmp_path / "model.zip"))
    assert found.inspection.problems == []
    assert found.inspection.card["license"] == "apache-2.0"
    assert set(tmp_path.iterdir()) == before


class Ranges:
    """Files elsewhere, of which ranges are fetched."""

    def __init__(self, folder):
        self.folder, self.num_bytes = folder, 0

    @property
    def sizes(self):
        return {path.name: path.stat().st_size for path in self.folder.iterdir()}

    def open(self, name):
        data = (self.folder / name).read_bytes()

        def fetch(begin, size):
            self.num_bytes += size
            return data[begin : begin + size]

        return RangedFile(len(data), fetch).buffered()


def test_of_files_elsewhere_only_headers_are_fetched(base, tmp_path):
    large = shutil.copytree(base, tmp_path / "large")
    weights = 50_000_000
    text = json.dumps({"w": {"dtype": "F32", "shape": [weights // 4], "data_offsets": [0, weights]}}).encode()
    with (large / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + weights)
    files = Ranges(large)
    found = inspect_opened(files, "https://there")
    assert found.inspection.num_tensors == 1
    assert files.num_bytes < weights / 10


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def long_model(base, path):
    """The files of a model, its weights ten megabytes longer than they were: one more tensor, at their end."""
    tensors = load_file(base / "model.safetensors") | {"zzz.weight": torch.zeros(2_500_000)}
    save_file(tensors, path, metadata={"format": "pt"})
    return {one.name: one.read_bytes() for one in base.iterdir()} | {"model.safetensors": path.read_bytes()}


@pytest.mark.parametrize("place", ["hub", "web", "store"])
def test_of_a_model_elsewhere_only_headers_are_fetched(base, registry, tmp_path, hub, place, monkeypatch):
    files = long_model(base, tmp_path / "long.safetensors")
    source = {"hub": "owner/long", "web": f"{hub.cdn.url}/long/", "store": "memory://inspected-elsewhere"}[place]
    hub.add("owner/long", files)
    links = "".join(f'<a href="{name}">{name}</a>' for name in files)
    pages = {"/long/": links.encode()} | {f"/long/{name}": data for name, data in files.items()}
    hub.cdn.files |= pages
    hub.cdn.headers["/long/"] = {"Content-Type": "text/html"}
    read = []
    original = Location.read_range
    monkeypatch.setattr(Location, "read_range", lambda *asked: read.append(asked[3] - asked[2]) or original(*asked))
    for name, data in files.items():
        fsspec.filesystem("memory").pipe_file(f"memory://inspected-elsewhere/{name}", data)
    found = inspect_model(registry, source)
    assert found.inspection.comparison.unexpected == ("zzz.weight",)
    assert found.inspection.card["license"] == "apache-2.0"
    assert found.size_bytes >= 10_000_000
    small = sum(len(data) for name, data in files.items() if name != "model.safetensors")
    assert hub.sent_bytes + hub.cdn.sent_bytes + sum(read) < small + 1_500_000
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_gguf_file_and_an_archive_elsewhere(base, registry, tmp_path, hub):
    path = write_gguf(base, tmp_path / "model.gguf", kind="Q8_0")
    hub.add("owner/quants", {"a.gguf": path.read_bytes(), "b.gguf": path.read_bytes()})
    with pytest.raises(InputError, match="has 2 GGUF files"):
        inspect_model(registry, "owner/quants")
    assert inspect_model(registry, "owner/quants", include=["a.gguf"]).inspection.problems == []
    hub.cdn.files["/m.zip"] = b"PK"
    with pytest.raises(UnsupportedError, match=r"is in an archive \(m.zip\)"):
        inspect_model(registry, f"{hub.cdn.url}/m.zip")


def test_lists_of_a_gguf_header_are_bounded_together(tmp_path):
    """Half a million numbers of two bytes in each of nine lists: as Python's they would take sixteen times as much."""
    numbers = struct.pack("<IIQ", 9, 2, 2**19) + bytes(2**20)
    named = b"".join(struct.pack("<Q", 2) + f"x{number}".encode() + numbers for number in range(9))
    (tmp_path / "lists.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 9) + named)
    with pytest.raises(InputError, match="and at most 4194304 are read in all lists"):
        read_gguf(tmp_path / "lists.gguf")


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/pwned-by-a-pickle",)


def torch_archive(data):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")
    return made.getvalue()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrap", [bytes, torch_archive], ids=["plain", "torch"])
def test_a_pickle_is_refused_with_the_names_it_would_import(registry, tmp_path, protocol, wrap):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{}")
    (tmp_path / "bad" / "pytorch_model.bin").write_bytes(wrap(pickle.dumps(Evil(), protocol)))
    with pytest.raises(InputError, match=r"pytorch_model\.bin, a pickle.*would import: (posix|nt)\.system"):
        inspect_model(registry, str(tmp_path / "bad"))


def test_a_name_from_a_pickles_memory_is_found(registry, tmp_path):
    (tmp_path / "bad").mkdir()
    hidden = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x02id\x85R."
    (tmp_path / "bad" / "model.pt").write_bytes(hidden)
    with pytest.raises(InputError, match=r"would import: posix\.system"):
        inspect_model(registry, str(tmp_path / "bad"))


def safetensors_with(header, size=0):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + bytes(size)


HUGE = 2**62
HOSTILE = {
    "model.safetensors": {
        "a huge header": struct.pack("<Q", HUGE) + b"{}",
        "dimensions that overflow": safetensors_with(
            {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, 4
        ),
        "offsets out of range": safetensors_with({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}, 4),
        "an empty tensor": safetensors_with({"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        "no JSON": safetensors_with(b"{" + b"[" * 200_000),
    },
    "model.gguf": {
        "many tensors": b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0),
        "many facts": b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE),
    },
}
CASES = [(name, data) for name, files in HOSTILE.items() for data in files.values()]


@pytest.mark.parametrize(("name", "data"), CASES, ids=[case for files in HOSTILE.values() for case in files])
def test_hostile_headers_are_refused(registry, tmp_path, name, data):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(data)
    with pytest.raises(InputError):
        inspect_model(registry, str(tmp_path / "bad"))


def sparse_gguf(path, head):
    """A file that is a terabyte long and takes no room."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**40)


def test_a_large_file_does_not_make_a_header_large(registry, tmp_path):
    name = struct.pack("<Q", 1) + b"x"
    heads = {
        "many": struct.pack("<QQ", 2**30, 0),
        "text": struct.pack("<QQ", 0, 1) + name + struct.pack("<IQ", 8, 2**39),
        "list": struct.pack("<QQ", 0, 1) + name + struct.pack("<IIQ", 9, 12, 2**35),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for key, head in heads.items():
        sparse_gguf(tmp_path / f"{key}.gguf", b"GGUF" + struct.pack("<I", 3) + head)
        with pytest.raises(InputError, match="no sound GGUF file"):
            inspect_model(registry, str(tmp_path / f"{key}.gguf"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_a_tensor_in_two_files_is_refused(registry, tmp_path):
    (tmp_path / "bad").mkdir()
    for name in ("a", "b"):
        (tmp_path / "bad" / f"{name}.safetensors").write_bytes(safetensors_bytes(1.0))
    with pytest.raises(InputError, match="'w' in two files"):
        inspect_model(registry, str(tmp_path / "bad"))


def test_what_is_no_model_is_told(registry, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither safetensors nor a GGUF file"):
        inspect_model(registry, str(tmp_path / "empty"))
    with pytest.raises(NotFoundError, match="nothing-there"):
        inspect_model(registry, "nothing-there")


def test_the_command_prints_facts_or_json(base, tmp_path, capsys):
    home = ["--home", str(tmp_path / "home")]
    assert run(["models", "inspect", str(base), *home]) == 0
    printed = capsys.readouterr().out
    assert "LlamaForCausalLM" in printed
    assert "Its tensors are those of its architecture." in printed
    assert run(["models", "inspect", str(base), *home, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["inspection"]["model_type"] == "llama"
    assert said["problems"] == []
