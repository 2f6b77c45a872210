"""What a registered model is and needs is read from the headers of its stored files, and found by filters."""

import json

import pytest
from model_files import gguf_bytes
from tiny_adapters import write_adapter, write_base

from llamafarm_ray.cli import terminal
from llamafarm_ray.cli.main import run
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.governance.principals import add_principal
from llamafarm_ray.workflows.versions.describe import describe
from llamafarm_ray.workflows.versions.list_models import list_versions
from llamafarm_ray.workflows.versions.register import Registration, register, stated

CARD = """---
license: apache-2.0
language: [en, de]
pipeline_tag: text-generation
---
# A model

## Intended uses

Answering questions about
ferries.

More about that.

## Out-of-Scope Use

Medical advice.
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a base model that has a card, and adapters: on it, and on a base that is not there."""
    folder = tmp_path_factory.mktemp("facts")
    base = write_base(folder / "base", max_position_embeddings=8192)
    (base / "README.md").write_text(CARD)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    other = write_base(folder / "other", seed=1, max_position_embeddings=2048)
    registry = RegistryService(Location(folder / "home"), principal="ann")
    register(registry, Registration(base, name="ferry-base", facts=stated(license="Apache-2.0")))
    facts = {"method": "lora", "license": "Apache-2.0"}
    register(
        registry,
        Registration(write_adapter(folder / "on", base), name="bot", facts=stated(base_model="ferry-base", **facts)),
    )
    register(
        registry,
        Registration(
            write_adapter(folder / "off", other), name="stray", facts=stated(base_model=str(other), method="lora")
        ),
    )
    return folder / "home"


@pytest.fixture
def registry(home):
    return RegistryService(Location(home), principal="ann")


def refs(registry, *filters):
    return [row.record.ref for row in list_versions(registry, filters=filters)]


def test_a_model_is_described_by_its_files(registry):
    facts = describe(registry, "ferry-base").model.to_dict()
    assert (facts["format"], facts["architecture"], facts["context"]) == ("safetensors", "LlamaForCausalLM", 8192)
    assert facts["chat_template"] is True
    assert facts["languages"] == ["en", "de"]
    assert facts["memory_bytes"]["bf16"] == 2 * facts["parameters"] > 0
    assert facts["card"]["intended_use"] == "Answering questions about ferries."
    assert facts["card"]["out_of_scope"] == "Medical advice."


def test_an_adapter_is_described_with_its_base(registry):
    base, bot = (describe(registry, name).model for name in ("ferry-base", "bot"))
    facts = bot.to_dict()
    assert (facts["context"], facts["languages"]) == (8192, ["en", "de"])
    assert facts["parameters"] < base.own.inspection.num_parameters
    assert bot.memory_bytes["bf16"] == base.memory_bytes["bf16"] + 2 * facts["parameters"]


def test_of_a_base_that_is_not_stored_nothing_is_claimed(registry):
    facts = describe(registry, "stray").model.to_dict()
    assert (facts["context"], facts["chat_template"], facts["memory_bytes"]) == (None, None, {})
    assert facts["parameters"] > 0


def test_weights_are_not_read(tmp_path, monkeypatch):
    registry = RegistryService(Location(tmp_path / "home"), principal="ann")
    register(registry, Registration(write_base(tmp_path / "large", hidden=256), name="large"))
    num_bytes = []
    content = type(registry.content)
    read = content.read_range

    def counted(self, digest, begin, end):
        num_bytes.append(end - begin)
        return read(self, digest, begin, end)

    monkeypatch.setattr(content, "read_range", counted)
    size_bytes = describe(registry, "large").record.registered.size_bytes
    assert 0 < sum(num_bytes) < size_bytes / 10


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["context>=8192 license=apache-2.0 kind=lora"], ["bot:1.0.0"]),
        (["context>=8k"], ["bot:1.0.0", "ferry-base:1.0.0"]),
        (["context=8192", "kind=base"], ["ferry-base:1.0.0"]),
        (["context>8192"], []),
        (["context<8192"], []),
        (["language=DE kind=adapter"], ["bot:1.0.0"]),
        (["chat_template=yes", "memory<1GB"], ["bot:1.0.0", "ferry-base:1.0.0"]),
        (["parameters>1B"], []),
        (["architecture=llamaforcausallm"], ["bot:1.0.0", "ferry-base:1.0.0"]),
        (["format=safetensors method=lora"], ["bot:1.0.0", "stray:1.0.0"]),
        (["served_by=vllm kind=adapter"], ["bot:1.0.0", "stray:1.0.0"]),
    ],
)
def test_models_are_found_by_what_they_are(registry, filters, found):
    assert refs(registry, *filters) == found


def test_a_base_that_may_not_be_read_gives_nothing_away(tmp_path):
    registry = RegistryService(Location(tmp_path / "home"), principal="ann")
    base = write_base(tmp_path / "base")
    register(registry, Registration(base, name="secret/base"))
    adapter = write_adapter(tmp_path / "adapter", base)
    register(registry, Registration(adapter, name="open/bot", facts=stated(base_model="secret/base")))
    root = add_principal(registry, "root", "admin", ())
    admin = RegistryService(Location(tmp_path / "home"), token=root)
    token = add_principal(admin, "eve", "viewer", ("open",))
    facts = describe(RegistryService(Location(tmp_path / "home"), token=token), "open/bot").model
    assert facts.own.inspection.is_adapter
    assert facts.whole is None


def test_a_gguf_file_is_described_too(tmp_path):
    registry = RegistryService(Location(tmp_path / "home"), principal="ann")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").write_bytes(gguf_bytes(llama__context_length=256, general__license="mit"))
    register(registry, Registration(tmp_path / "gguf", name="small"))
    facts = describe(registry, "small").model.to_dict()
    assert (facts["format"], facts["context"], facts["card"]) == ("gguf", 256, {"license": "mit"})


def test_the_command_prints_them(home, capsys, monkeypatch):
    monkeypatch.setattr(terminal.console, "_width", 140)
    assert run(["models", "describe", "bot", "--home", str(home)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "context 8,192 tokens" in lines
    assert "languages en, de" in lines
    assert "intended use Answering questions about ferries." in lines
    assert any(line.startswith("memory of weights fp32 ") and line.endswith("(with its base)") for line in lines)
    assert run(["models", "describe", "stray", "--home", str(home)]) == 0
    assert "whose files are not in this registry" in " ".join(capsys.readouterr().out.split())
    assert run(["models", "describe", "bot", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["context"] == 8192
