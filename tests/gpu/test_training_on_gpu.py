"""Training's promises on one GPU, and the speed of a model of a billion parameters on it: ``make test-gpu``."""

import json
import sys
import time

import numpy as np
import pytest
import torch
from tiny_model import make_rows, make_tiny_model, make_tiny_tokenizer
from worker_group import run_cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.timeout(1200),
]

STRATEGIES = ("single", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def rows(base_model):
    from llamafarm_ray.models.tokenizer import load_tokenizer
    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.rows import Row

    tokenizer = load_tokenizer(base_model)
    made = [one for row in make_rows(24) for one in find_objective("sft").tokenise(tokenizer, row, 128)]
    return [Row(np.array(one.input_ids), np.array(one.labels), np.array(one.parts), one.tag) for one in made]


def case(strategy, **options):
    parameters = {"r": 4, "lora_dropout": 0.0}
    return {"strategy": strategy, "method": "lora", "parameters": parameters, "gpu": True, "of_workers": 1, **options}


def test_strategies_agree_in_fp32(rows, base_model):
    found = run_cases(
        [case(name, num_steps=50, learning_rate=2e-4) for name in STRATEGIES], rows, base_model, num_workers=1
    )
    for one in found:
        assert one["losses"] == pytest.approx(found[0]["losses"], abs=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_packed_rows_give_the_losses_of_padded_ones(rows, base_model, precision, tolerance):
    packed, padded = run_cases(
        [case("single", packed=packed, precision=precision, num_steps=3) for packed in (True, False)],
        rows,
        base_model,
        num_workers=1,
    )
    assert packed["losses"] == pytest.approx(padded["losses"], abs=tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_goes_on_from_its_checkpoint(rows, base_model, tmp_path, strategy):
    home = str(tmp_path / "home")
    (whole,) = run_cases([case(strategy, num_steps=6)], rows, base_model, num_workers=1)
    run_cases([case(strategy, num_steps=6, home=home, checkpoint_at=3, end_at=4)], rows, base_model, num_workers=1)
    (rest,) = run_cases([case(strategy, num_steps=6, home=home)], rows, base_model, num_workers=1)
    assert rest["first_step"] == 3
    assert rest["losses"] == pytest.approx(whole["losses"], abs=1e-6)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_speed_of_a_billion_parameters(method, tmp_path, capsys):
    """A Llama of 1.1B parameters with random weights in bf16, rows of 300 to 1,000 tokens, packed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from llamafarm_ray.training.rows import Row

    folder = tmp_path / "base"
    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.cpu().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    rng = np.random.default_rng(0)
    rows = []
    for length in rng.integers(300, 1000, 8 * 30):
        ids = rng.integers(5, 32000, length)
        rows.append(Row(ids, np.where(np.arange(length) < length // 2, -100, ids), np.array([length])))
    options = {"batch_size": 8, "accumulation": 1, "num_steps": 30, "precision": "bf16", "learning_rate": 1e-4}
    started = time.perf_counter()
    (found,) = run_cases([case("single", **{**options, "method": method})], rows, folder, num_workers=1)
    numbers = {
        "method": method,
        "device": torch.cuda.get_device_name(),
        "tokens_per_s": found["tokens_per_s"],
        "seconds": time.perf_counter() - started,
    }
    with capsys.disabled():
        sys.stdout.write(json.dumps({"benchmark": "training on a GPU", "numbers": numbers}) + "\n")
    assert found["losses"][-1] < found["losses"][0]
