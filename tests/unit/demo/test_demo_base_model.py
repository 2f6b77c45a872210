"""The demo's base model is made on the spot, loads like any other, and is made only once."""

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafarm_ray.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "jobs" / "demo"))

import base_model

TINY = base_model.Settings(vocab_size=300, hidden_size=64, intermediate_size=64, num_layers=1, batch_sentences=2)


def build(corpus, output, *, seconds=0.2, seed=0, on_progress=None):
    return base_model.build_base_model(
        corpus, output, seconds=seconds, seed=seed, settings=TINY, on_progress=on_progress
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "quay.md").write_text("# The quay\n\nThe quay is long. The bell rings at noon.\n", encoding="utf-8")
    (folder / "mill.txt").write_text("The mill\n\nThe mill grinds rye. A loaf costs 3 euros.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    calls = []
    folder = tmp_path_factory.mktemp("models") / "base"
    output = build(corpus, folder, seconds=2, on_progress=lambda *call: calls.append(call))
    return output, calls


def test_base_loads_and_generates(built):
    output, _ = built
    tokenizer, model = AutoTokenizer.from_pretrained(output), AutoModelForCausalLM.from_pretrained(output)
    prompt = tokenizer("The quay", return_tensors="pt")
    generated = model.generate(input_ids=prompt["input_ids"], max_new_tokens=4)
    assert generated.shape[1] > prompt["input_ids"].shape[1]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.head_dim == 64


def test_weights_are_safetensors_only(built):
    names = {path.name for path in built[0].iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]


def test_chat_template_marks_turns_and_opens_the_reply(built):
    tokenizer = AutoTokenizer.from_pretrained(built[0])
    question = [{"role": "user", "content": "Where?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|begin|><|user|>Where?<|end|><|assistant|>"
    whole = [{"role": "system", "content": "Be brief."}, *question, {"role": "assistant", "content": "Here."}]
    text = tokenizer.apply_chat_template(whole, tokenize=False)
    assert text == "<|begin|><|system|>Be brief.<|end|><|user|>Where?<|end|><|assistant|>Here.<|end|>"


def test_each_mark_of_the_chat_is_one_token(built):
    tokenizer = AutoTokenizer.from_pretrained(built[0])
    for mark in base_model.SPECIAL_TOKENS:
        assert len(tokenizer.encode(mark)) == 1


def test_progress_ends_at_one_and_the_loss_falls(built):
    _, calls = built
    fractions = [fraction for fraction, _ in calls]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert calls[-1][1] < calls[0][1]


def test_second_call_takes_what_is_there(corpus, built):
    output, _ = built
    before = (output / "model.safetensors").stat().st_mtime_ns
    calls = []
    assert build(corpus, output, seconds=2, on_progress=lambda *call: calls.append(call)) == output
    assert not calls
    assert (output / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_or_a_half_written_record_build_again(corpus, tmp_path):
    output = build(corpus, tmp_path / "base")
    build(corpus, output, seed=1)
    assert json.loads((output / "base.json").read_text(encoding="utf-8"))["seed"] == 1
    (output / "base.json").write_text("{", encoding="utf-8")
    build(corpus, output, seed=1)
    assert json.loads((output / "base.json").read_text(encoding="utf-8"))["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(InputError, match="no documents"):
        build(tmp_path, tmp_path / "base")
    assert not (tmp_path / "base").exists()
