"""A registered folder knows where it came from."""

import json
import math

import numpy as np
import pytest
from model_files import ONNX, gguf_bytes, safetensors_bytes
from tiny_adapters import change_config, change_tensors, lora_tensors, write_adapter, write_base

from llamafarm_ray.errors import AccessDeniedError, ConflictError, InputError
from llamafarm_ray.models.sentence_files import write_sentence_transformers_files
from llamafarm_ray.registry import DatasetRegistered, RegistryService
from llamafarm_ray.registry.commands import RegisterDataset
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.storage import Location, Manifest
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.versions.list_models import list_versions
from llamafarm_ray.workflows.versions.register import Registration, register, stated


def weights(folder, name, value=0.0):
    (folder / name).write_bytes(safetensors_bytes(value))


@pytest.fixture
def registry(tmp_path):
    return RegistryService(Location(tmp_path / "home"), principal="ann")


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path, base):
    return write_adapter(tmp_path / "lora_v1", base)


def test_an_adapter_is_tied_to_the_base_its_config_names(registry, adapter, base):
    registered = register(registry, Registration(adapter)).registered
    assert (registered.model, registered.version, registered.kind) == ("lora_v1", "1.0.0", ModelKind.ADAPTER)
    assert registered.base_digest == Manifest.of_folder(base).digest


GGUF_LORA = gguf_bytes(general__type="adapter", adapter__type="lora")


@pytest.mark.parametrize(
    ("name", "data", "of_base", "kind"),
    [
        ("model.gguf", gguf_bytes(general__type="model"), False, ModelKind.BASE),
        ("model.gguf", gguf_bytes(llama__pooling_type=1), False, ModelKind.EMBEDDING),
        ("model.gguf", gguf_bytes(), True, ModelKind.QUANTIZED),
        ("adapter.gguf", GGUF_LORA, True, ModelKind.ADAPTER),
        ("model.onnx", ONNX, False, ModelKind.BASE),
        ("model.onnx", ONNX, True, ModelKind.QUANTIZED),
    ],
)
def test_a_file_of_another_format_is_a_model_an_adapter_or_another_form_of_its_base(
    registry, base, tmp_path, name, data, of_base, kind
):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / name).write_bytes(data)
    if name.endswith(".onnx"):
        (folder / "config.json").write_text("{}")
    registered = register(
        registry, Registration(folder, facts=stated(base_model=str(base) if of_base else None))
    ).registered
    assert registered.kind is kind
    assert registered.base_digest == (Manifest.of_folder(base).digest if of_base else None)


def test_quantized_safetensors_are_a_form_of_the_base_that_is_named(registry, base, tmp_path):
    folder = tmp_path / "awq"
    folder.mkdir()
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    assert register(registry, Registration(folder, name="alone")).registered.kind is ModelKind.BASE
    registered = register(registry, Registration(folder, name="named", facts=stated(base_model=str(base)))).registered
    assert registered.kind is ModelKind.QUANTIZED
    assert registered.base_digest == Manifest.of_folder(base).digest
    assert registered.fills_engine


def test_an_adapter_in_gguf_form_does_not_know_its_base(registry, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter.gguf").write_bytes(GGUF_LORA)
    with pytest.raises(InputError, match=r"does not name its base model.*--base-model"):
        register(registry, Registration(folder))


def test_the_runs_record_is_taken_over_and_flags_win(registry, adapter):
    lineage = {"base_model": "b", "base_digest": "sha256:" + "1" * 64, "dataset": "qa", "parameters": {"r": 8}}
    record = {"method": "lora", "metrics": {"train_loss": 0.5}, "lineage": lineage}
    (adapter / "training.json").write_text(json.dumps(record))
    registered = register(registry, Registration(adapter, facts=stated(dataset="other"))).registered
    assert (registered.method, registered.base_model, registered.dataset) == ("lora", "b", "other")
    assert registered.parameters == {"r": 8}
    assert registered.base_digest == lineage["base_digest"]
    assert registered.metrics == {"train_loss": 0.5}


def test_performance_metrics_are_kept(registry, adapter, tmp_path):
    results = {"evaluation_results": {"benchmarks": {"medical_qa": {"accuracy": 0.89}}}}
    (tmp_path / "eval.json").write_text(json.dumps(results))
    registered = register(registry, Registration(adapter, performance_metrics=tmp_path / "eval.json")).registered
    assert registered.metrics == results


def test_the_same_folder_registered_again_is_the_same_version(registry, adapter):
    assert register(registry, Registration(adapter)).ref == register(registry, Registration(adapter)).ref
    change_tensors(adapter, lambda _: lora_tensors(seed=1))
    assert register(registry, Registration(adapter)).ref == "lora_v1:1.1.0"


def test_the_same_folder_with_new_facts_is_a_new_version_and_nothing_said_is_lost(registry, adapter, tmp_path):
    register(registry, Registration(adapter))
    (tmp_path / "eval.json").write_text('{"evaluation_results": {"f1": 0.5}}')
    asked = Registration(adapter, performance_metrics=tmp_path / "eval.json", facts=stated(license="MIT", tags=("a",)))
    registered = register(registry, asked).registered
    assert (registered.version, registered.license, registered.tags) == ("1.1.0", "MIT", ("a",))
    assert registered.metrics == {"evaluation_results": {"f1": 0.5}}
    assert register(registry, asked).ref == "lora_v1:1.1.0"


@pytest.mark.parametrize("alias", ["bad alias!", "a:1.0.0", "../x"])
def test_a_bad_alias_is_refused_before_anything_is_registered(registry, adapter, alias):
    with pytest.raises(InputError):
        register(registry, Registration(adapter, alias=alias))
    assert not registry.state.models


@pytest.mark.parametrize("record", ['{"lineage": "x"}', '{"metrics": 5}', "[]"])
def test_a_record_that_train_did_not_write_is_named(registry, adapter, record):
    (adapter / "training.json").write_text(record)
    with pytest.raises(InputError, match=r"training\.json"):
        register(registry, Registration(adapter))


def test_a_taken_version_number_is_refused(registry, adapter):
    register(registry, Registration(adapter, name="bot", version="1.2.0"))
    with pytest.raises(ConflictError, match=r"bot:1\.2\.0"):
        register(registry, Registration(adapter, name="bot", version="1.2.0"))


def test_an_adapter_that_names_no_base_needs_one_given(registry, adapter):
    change_config(adapter, base_model_name_or_path=None)
    with pytest.raises(InputError, match="--base-model"):
        register(registry, Registration(adapter))
    assert not registry.state.models


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00"])
def test_a_broken_metrics_file_is_named(registry, adapter, tmp_path, content):
    (tmp_path / "eval.json").write_text(content)
    with pytest.raises(InputError, match=r"eval\.json"):
        register(registry, Registration(adapter, performance_metrics=tmp_path / "eval.json"))


def test_a_whole_model_is_a_base_unless_it_was_trained(registry, base):
    assert register(registry, Registration(base)).registered.kind is ModelKind.BASE
    assert (
        register(registry, Registration(base, name="tuned", facts=stated(method="full"))).registered.kind
        is ModelKind.MERGED
    )


@pytest.mark.parametrize("method", [None, "full"])
def test_a_whole_model_that_gives_vectors_is_an_embedding_model_wherever_it_was_made(registry, base, method):
    write_sentence_transformers_files(base, width=8, max_length=64, pooling="mean")
    assert register(registry, Registration(base, facts=stated(method=method))).registered.kind is ModelKind.EMBEDDING
    assert [row.record.ref for row in list_versions(registry, kind="embedding")] == ["base:1.0.0"]


def test_lists_are_filtered_by_kind_and_field(registry, adapter, base):
    register(registry, Registration(adapter, alias="production", facts=stated(domain="medical", tags=("qa", "en"))))
    register(registry, Registration(base))
    assert [row.record.ref for row in list_versions(registry)] == ["base:1.0.0", "lora_v1:1.0.0"]
    assert [row.record.ref for row in list_versions(registry, kind="adapters")] == ["lora_v1:1.0.0"]
    assert [row.aliases for row in list_versions(registry, filters=["domain=medical"])] == [("production",)]
    assert len(list_versions(registry, filters=["tags=qa", "kind=adapter"])) == 1
    assert list_versions(registry, filters=["domain=law"]) == []


def test_a_retired_version_is_not_what_the_same_files_are_registered_as(registry, adapter):
    registry.retire(register(registry, Registration(adapter)).ref)
    assert register(registry, Registration(adapter)).ref == "lora_v1:1.1.0"


def test_a_bump_makes_a_version_even_of_the_same_files(registry, adapter):
    register(registry, Registration(adapter))
    assert register(registry, Registration(adapter, bump="patch")).ref == "lora_v1:1.0.1"
    with pytest.raises(InputError, match="not both"):
        register(registry, Registration(adapter, bump="patch", version="3.0.0"))
    with pytest.raises(InputError, match="'pach'"):
        register(registry, Registration(adapter, bump="pach"))


def test_a_registered_dataset_is_tied_by_its_digest_and_not_by_that_of_another(registry, adapter):
    digests = {name: "sha256:" + name * 64 for name in "ab"}
    lineage = {"base_model": "b", "base_digest": digests["a"], "dataset": "a", "dataset_digest": digests["a"]}
    (adapter / "training.json").write_text(json.dumps({"lineage": lineage}))
    assert register(registry, Registration(adapter)).registered.dataset_digest == digests["a"]
    other = register(registry, Registration(adapter, facts=stated(dataset="b"))).registered
    assert (other.dataset, other.dataset_digest) == ("b", None)
    known = DatasetRegistered(name="b", digest=digests["b"], num_train=1, num_validation=0)
    registry.submit(RegisterDataset(known))
    assert (
        register(registry, Registration(adapter, facts=stated(dataset="b"))).registered.dataset_digest == digests["b"]
    )


def test_whoever_may_not_register_is_not_told_what_is_registered_already(registry, adapter, tmp_path):
    register(registry, Registration(adapter))
    registry.add_principal("root", {"*": Role.ADMIN})
    with pytest.raises(AccessDeniedError):
        register(registry, Registration(adapter))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_adapter_with_a_weight_that_is_no_number_is_refused_before_anything_is_stored(registry, adapter, bad):
    name = min(lora_tensors())
    first = np.where(np.arange(64).reshape(4, 16) == 5, np.float32(bad), np.float32(1.0))
    change_tensors(adapter, lambda tensors: {**tensors, name: first})
    with pytest.raises(InputError, match=rf"1 of the 64 values of the tensor '{name}' in adapter_model") as refused:
        register(registry, Registration(adapter))
    assert str(adapter) in refused.value.message
    assert "Train it again" in refused.value.hint
    assert not registry.refresh().models
    assert list(registry.content.stored()) == []


def test_a_base_models_infinities_are_its_own_affair(registry, base):
    change_tensors(base, lambda tensors: {name: one - math.inf for name, one in tensors.items()}, "model.safetensors")
    assert register(registry, Registration(base)).registered.kind is ModelKind.BASE


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda tensors: {name: one for name, one in tensors.items() if "layers.1" not in name},
            "9 tensors are missing",
        ),
        (
            lambda tensors: tensors | {"lm_head.weight": np.ones((3, 16))},
            "1 tensors have another shape: lm_head.weight",
        ),
    ],
    ids=["missing", "another shape"],
)
def test_a_model_without_its_tensors_is_refused(registry, base, change, told):
    change_tensors(base, change, "model.safetensors")
    with pytest.raises(InputError, match=f"is no whole model. {told}"):
        register(registry, Registration(base))
    assert list(registry.content.stored()) == []


def test_a_model_without_a_file_of_its_index_is_refused(registry, base):
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors").unlink()
    (base / "config.json").write_text('{"architectures": ["Unknown"]}')
    weights(base, "model-00001-of-00002.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"1 files of the weights are missing: model-00002-of-00002.safetensors"):
        register(registry, Registration(base))


def test_tensors_that_no_part_reads_are_noted(registry, base):
    change_tensors(base, lambda tensors: tensors | {"extra": np.ones(1)}, "model.safetensors")
    assert notes_of(registry, Registration(base))[1] == ["1 tensors belong to no part of the architecture: extra."]


def test_a_licence_comes_from_the_card_or_from_what_a_model_was_made_from(registry, base, tmp_path):
    (base / "README.md").write_text("---\nlicense: gemma\n---\n")
    source = register(
        registry, Registration(base, name="one", facts=stated(usage_restrictions="No weapons.", capabilities=("qa",)))
    )
    assert source.registered.license == "gemma"
    adapter = write_adapter(tmp_path / "lora", base)
    registered = register(
        registry, Registration(adapter, facts=stated(license="mit", capabilities=("code",)))
    ).registered
    merged = write_base(tmp_path / "merged", seed=1)
    said = {"method": "lora", "lineage": {"derived_from": [registered.manifest]}}
    (merged / "training.json").write_text(json.dumps(said))
    found = register(registry, Registration(merged)).registered
    assert (found.kind, found.license) == (ModelKind.MERGED, "mit AND gemma")
    assert (found.usage_restrictions, found.capabilities) == ("No weapons.", ("code", "qa"))
    assert (
        register(registry, Registration(merged, facts=stated(license="apache-2.0"))).registered.license == "apache-2.0"
    )


def notes_of(registry, asked):
    """The version that a folder is registered as, and the notes for the user."""
    notes = []
    return register(registry, asked, on_note=notes.append), notes


def test_an_adapter_that_does_not_fit_its_base_is_refused_before_anything_is_stored(registry, adapter):
    change_tensors(adapter, lambda tensors: {f"{name}.of.another": one for name, one in tensors.items()})
    with pytest.raises(InputError, match=r"lora_v1 can't be registered: .*8 of its 8 tensors are of no module"):
        register(registry, Registration(adapter))
    assert list(registry.content.stored()) == []


def test_names_of_other_tools_are_mended_on_request_and_that_is_kept(registry, adapter, base):
    right = (adapter / "adapter_model.safetensors").read_bytes()
    change_tensors(
        adapter,
        lambda tensors: {name.replace("model.model", "model._orig_mod.model"): one for name, one in tensors.items()},
    )
    wrong = (adapter / "adapter_model.safetensors").read_bytes()
    with pytest.raises(InputError, match="register it with --fix-names"):
        register(registry, Registration(adapter))
    record, notes = notes_of(registry, Registration(adapter, fix_names=True))
    assert record.ref == "lora_v1:1.0.0"
    assert "`_orig_mod.` is taken out" in record.registered.adapter.renamed
    assert "`_orig_mod.` is taken out" in "".join(notes)
    stored = (registry.pull(record.ref) / "adapter_model.safetensors").read_bytes()
    assert stored[-4 * 64 :] == right[-4 * 64 :]
    assert b"_orig_mod" not in stored
    assert (adapter / "adapter_model.safetensors").read_bytes() == wrong
    assert register(registry, Registration(adapter, fix_names=True)).ref == record.ref


def test_nothing_is_renamed_where_names_fit(registry, adapter):
    assert register(registry, Registration(adapter, fix_names=True)).registered.adapter.renamed == ""


def test_an_adapter_whose_base_is_elsewhere_is_proved_when_it_is_loaded(registry, adapter):
    lineage = {"base_model": "elsewhere", "base_digest": "sha256:" + "1" * 64}
    (adapter / "training.json").write_text(json.dumps({"lineage": lineage}))
    record, notes = notes_of(registry, Registration(adapter))
    assert not record.registered.adapter.proved
    assert "proved against them when it is loaded" in notes[0]
    change_config(adapter, r=0)
    with pytest.raises(InputError, match="r is 0"):
        register(registry, Registration(adapter))


@pytest.mark.parametrize("known_by", ["the run's record", "its configuration"])
def test_a_base_that_is_named_has_the_weights_that_the_adapter_was_trained_on(
    registry, adapter, base, tmp_path, known_by
):
    copy = write_base(tmp_path / "copy")
    (copy / "README.md").write_text("The same weights.")
    other = write_base(tmp_path / "other", seed=1)
    if known_by == "the run's record":
        change_config(adapter, base_model_name_or_path="nowhere")
        digest = register(registry, Registration(base)).registered.manifest
        (adapter / "training.json").write_text(json.dumps({"lineage": {"base_model": "b", "base_digest": digest}}))
    assert register(registry, Registration(adapter, facts=stated(base_model=str(copy)))).registered.adapter.proved
    with pytest.raises(InputError, match=r"other is not the base model .*their weights differ"):
        register(registry, Registration(adapter, facts=stated(base_model=str(other))))


def test_a_feature_that_vllm_lacks_is_said_and_kept(registry, adapter):
    lineage = {"base_model": "elsewhere", "base_digest": "sha256:" + "1" * 64}
    (adapter / "training.json").write_text(json.dumps({"lineage": lineage}))
    change_config(adapter, modules_to_save=["lm_head"])
    record, notes = notes_of(registry, Registration(adapter))
    assert record.registered.adapter.not_for_vllm == "whole modules of its own (modules_to_save)"
    assert "engine transformers is chosen" in "".join(notes)


def test_the_state_of_a_trainer_is_left_out_and_weights_that_are_pickled_are_not(registry, adapter):
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "checkpoint-10/optimizer.pt"):
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).write_bytes(b"\x80\x04pickled")
    record, notes = notes_of(registry, Registration(adapter))
    assert notes[0].startswith("Left out, since they are no weights: checkpoint-10, optimizer.pt, rng_state_0.pth")
    assert {path.name for path in registry.pull(record.ref).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04pickled")
    with pytest.raises(InputError, match="pickled code"):
        register(registry, Registration(adapter))


def test_a_base_that_is_known_by_its_digest_alone_is_compared_by_that(registry, adapter, base):
    change_config(adapter, base_model_name_or_path="nowhere")
    for digest in (Manifest.of_folder(base).digest, "sha256:" + "1" * 64):
        (adapter / "training.json").write_text(json.dumps({"lineage": {"base_model": "b", "base_digest": digest}}))
        if digest.endswith("1" * 64):
            with pytest.raises(InputError, match="their digests differ"):
                register(registry, Registration(adapter, facts=stated(base_model=str(base))))
        else:
            assert register(
                registry, Registration(adapter, facts=stated(base_model=str(base)))
            ).registered.adapter.proved
