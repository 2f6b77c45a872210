"""`llamafarm models estimate`, and the estimate beside `train --dry-run`."""

import json
import subprocess
import sys

import pytest

SEED = ("models", "estimate", "--base-model", "7b", "--gpu", "a100-80gb", "--rows", "10000", "--max-length", "2048")


def write_config(folder):
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    (folder / "base" / "config.json").write_text(json.dumps({**shape, "vocab_size": 400, "model_type": "llama"}))


def test_a_plan_says_memory_time_cost_and_what_else_fits(llamafarm):
    shown = llamafarm.text(*SEED, "--method", "lora", "--gpus", "8", "--strategy", "deepspeed_zero3")
    for text in ("7b (as Llama-2-7B), 6.74B parameters", "GiB of 79 GiB: fits", "10,000 rows", "$", "8 x NVIDIA A100"):
        assert text in shown
    assert "qlora" in shown.split("What fits")[1]
    assert "as of 2025-06" in shown


def test_a_plan_for_programs_has_bytes_seconds_and_dollars(llamafarm):
    found = llamafarm.json(*SEED, "--method", "full", "--gpus", "8")
    assert found["verdict"] == "fits"
    assert found["strategy"] != "ddp"  # a copy each would not fit
    assert found["memory"]["total"] == sum(
        found["memory"][part]
        for part in ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "framework")
    )
    assert found["tokens"] == 10000 * 2048 * 3
    assert found["dollars"] == pytest.approx(8 * 3.43 * found["seconds"] / 3600)
    assert {"method", "batch_size", "seconds", "dollars"} <= found["options"][0].keys()


def test_what_does_not_fit_is_shown_with_what_would(llamafarm):
    found = llamafarm.json(*SEED, "--method", "full")
    assert found["verdict"] == "too large"
    assert found["alternatives"]
    assert "would fit: " in llamafarm.text(*SEED, "--method", "full")


def test_a_folder_a_registered_model_and_a_hub_id_can_be_planned_for(llamafarm, folders):
    write_config(folders)
    same = ("models", "estimate", "--gpu", "l4", "--max-length", "128")
    of_folder = llamafarm.json(*same, "--base-model", "base")
    llamafarm.text("models", "import", "base", "--name", "small")
    assert llamafarm.json(*same, "--base-model", "small")["memory"] == of_folder["memory"]
    hub = llamafarm.json(*same, "--base-model", "meta-llama/Llama-3.1-8B-Instruct")
    assert hub["num_parameters"] == 8_030_261_248
    assert "from its name" in " ".join(hub["notes"])
    assert llamafarm.error(*same, "--base-model", "nothing")["code"] == "not_found"
    assert llamafarm.error(*same)["code"] == "invalid_input"


def test_rows_are_counted_in_the_dataset(llamafarm, folders):
    write_config(folders)
    (folders / "rows.jsonl").write_text('{"messages": []}\n' * 7)
    same = ("models", "estimate", "--base-model", "base", "--gpu", "l4", "--set", "dataset.path=rows.jsonl")
    assert llamafarm.json(*same)["num_rows"] == 7
    assert llamafarm.json(*same, "--rows", "9")["num_rows"] == 9


def test_planning_for_other_hardware_needs_neither_torch_nor_ray():
    code = (
        "import sys; from llamafarm_ray.cli.main import run;"
        f"status = run({[*SEED, '--method', 'lora', '--json']!r});"
        "print(status, [name for name in ('torch', 'ray', 'transformers') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"


def test_a_dry_run_shows_the_estimate_beside_the_configuration(llamafarm, folders):
    write_config(folders)
    dry = ("models", "train", "--dry-run", "--base-model", "base", "--dataset", "nope")
    status, out, err = llamafarm.run(*dry)
    assert status == 0
    assert "estimate" not in json.loads(out)
    assert "lora, single" in err
    found = llamafarm.json(*dry)
    assert found["base_model"] == "base"
    assert found["estimate"]["memory"]["total"] > 0
    assert "base_model is not set" in llamafarm.json("models", "train", "--dry-run")["estimate"]["error"]


def test_what_train_refuses_to_combine_is_refused_alike(llamafarm):
    plan = ("models", "estimate", "--base-model", "8b", "--gpu", "l4", "--gpus", "2", "--strategy", "deepspeed_zero3")
    refused = llamafarm.error(*plan, "--method", "qlora")
    assert refused["code"] == "unsupported"
    assert "qlora" in refused["message"]


@pytest.mark.parametrize(("gpu", "precision"), [("t4", "fp16"), ("l4", "bf16")])
def test_a_gpu_without_bf16_trains_in_fp16(llamafarm, gpu, precision):
    assert llamafarm.json("models", "estimate", "--base-model", "3b", "--gpu", gpu)["precision"] == precision


@pytest.mark.parametrize("name", ["Qwen/Qwen3-30B-A3B", "8x7b", "mistralai/Mixtral-8x7B-v0.1"])
def test_a_mixture_of_experts_is_not_taken_for_a_dense_model(llamafarm, name):
    refused = llamafarm.error("models", "estimate", "--base-model", name, "--gpu", "h100")
    assert refused["code"] == "unsupported"
    assert f"{name} is a mixture of experts" in refused["message"]


def test_memory_of_the_host_is_that_of_a_worker_and_of_all(llamafarm):
    plan = ("models", "estimate", "--base-model", "70b", "--gpu", "h100", "--gpus", "8", "--method", "full")
    shown = " ".join(llamafarm.text(*plan, "--strategy", "deepspeed_zero3", "--offload", "cpu").split())
    assert " for each worker, " in shown
    assert " for all 8" in shown
