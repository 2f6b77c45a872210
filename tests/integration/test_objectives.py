"""Objectives on a real Ray: from a file of rows to a saved model, alike on one worker and on two."""

import json

import pytest
import torch
from objective_steps import prompts, text
from safetensors.torch import load_file
from tiny_model import make_tiny_model, make_tiny_tokenizer

from llamafarm_ray.config import parse_config

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS = {
    "dpo": [
        {"messages": prompt, "chosen": text(index), "rejected": text(50 + index)}
        for index, prompt in enumerate(prompts(11))
    ],
    "kto": [
        {"messages": [*prompt, {"role": "assistant", "content": text(index)}], "label": index % 3 != 0}
        for index, prompt in enumerate(prompts(11))
    ],
    "contrastive": [
        {"anchor": text(index), "positive": text(50 + index), "negatives": [text(90 + index)]} for index in range(11)
    ],
    "pretraining": [{"text": text(index, most=60)} for index in range(11)],
}


DPO = {"method": "lora", "dpo": {"beta": 0.5}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert") / "base"
    tokenizer = make_tiny_tokenizer(None)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **dropout))
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def train(objective, base, folder, name, *, workers=1, accumulation=4, strategy="auto", **tuning):
    from llamafarm_ray.data import open_dataset
    from llamafarm_ray.training import TrainingCallbacks, TrainingInputs, train

    path = folder / f"{objective}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS[objective]))
    path.with_name(f"{objective}.validation.jsonl").write_text(
        "\n".join(json.dumps(row) for row in ROWS[objective][:3])
    )
    splits = open_dataset(path)
    training = {"epochs": 3.0, "batch_size": 1, "gradient_accumulation_steps": accumulation, "learning_rate": 5e-3}
    training |= {"lr_scheduler": "constant", "warmup_steps": 0, "max_length": 64, "precision": "fp32"}
    tuning = {
        "objective": objective,
        "training": training,
        "distributed": {"workers": workers, "strategy": strategy},
        **tuning,
    }
    seen = []
    result = train(
        parse_config({"fine_tuning": tuning}),
        TrainingInputs(splits.train, splits.validation, base),
        folder / name,
        callbacks=TrainingCallbacks(on_progress=seen.append),
    )
    return result, seen


def test_pairs_in_a_file_train_two_workers_whose_weights_are_split(llama, tmp_path):
    result, seen = train("dpo", llama, tmp_path, "out", workers=2, accumulation=2, strategy="deepspeed_zero3", **DPO)
    assert (result.strategy, result.num_workers) == ("deepspeed_zero3", 2)
    assert len(result.losses) == 9
    assert result.losses[-1] < result.losses[0]
    assert seen[-1].metrics
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(bool(weight.any()) for weight in weights.values()), "each was gathered before it was saved"


@pytest.mark.parametrize(
    ("objective", "tuning"),
    [
        pytest.param("dpo", DPO, marks=pytest.mark.long),
        pytest.param("kto", {"method": "full", "kto": {"beta": 0.5}}, marks=pytest.mark.long),
        pytest.param("contrastive", {"method": "full", "contrastive": {"temperature": 0.2}}, marks=pytest.mark.long),
    ],
)
def test_two_workers_learn_what_one_does(llama, bert, tmp_path, objective, tuning):
    base = bert if objective == "contrastive" else llama
    one, _ = train(objective, base, tmp_path, "one", workers=1, accumulation=4, **tuning)
    two, seen = train(objective, base, tmp_path, "two", workers=2, accumulation=2, **tuning)
    assert len(one.losses) == 9
    assert two.losses == pytest.approx(one.losses, abs=1e-4)
    assert one.losses[-1] < one.losses[0]
    assert seen[-1].metrics
    folder = tmp_path / "one"
    if objective == "contrastive":
        from transformers import AutoModel

        assert json.loads((folder / "modules.json").read_text())[1]["path"] == "1_Pooling"
        assert AutoModel.from_pretrained(str(folder)).config.hidden_size == 32
    else:
        assert not (folder / "modules.json").exists()


@pytest.mark.long
def test_plain_text_is_trained_without_a_chat_template(tmp_path):
    base = make_tiny_model(tmp_path / "base", chat_template=None)
    result, _ = train("pretraining", base, tmp_path, "out", method="lora")
    assert result.losses[-1] < result.losses[0]
