"""Workers without Ray: strategies agree, and any of them goes on from another's checkpoint."""

import numpy as np
import pytest
import torch
from tiny_model import make_rows, make_tiny_model
from worker_group import run_cases

METHODS = {
    "lora": {"r": 4, "lora_dropout": 0.0},
    "dora": {"r": 4, "use_dora": True},
    "full": {},
    "adapter": {"reduction_factor": 4},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "hybrid_lora_adapter": {"r": 4, "reduction_factor": 4},
    "qlora": {"r": 4},
}
ZERO = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
UNSPLIT = {"qlora", "dora"}  # what stage 3 can't split, and planning refuses


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    # A width that no two workers divide evenly leaves ZeRO stage 3 with parts of unequal use.
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base", hidden_size=36)


@pytest.fixture(scope="module")
def rows(base_model):
    from llamafarm_ray.models.tokenizer import load_tokenizer
    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.rows import Row

    tokenizer = load_tokenizer(base_model)
    made = [one for row in make_rows(11) for one in find_objective("sft").tokenise(tokenizer, row, 64)]
    return [Row(np.array(one.input_ids), np.array(one.labels), np.array(one.parts), one.tag) for one in made]


def case(strategy, method, **options):
    name = "lora" if method == "dora" else method
    return {"strategy": strategy, "method": name, "parameters": METHODS[method], **options}


def undisturbed_and_resumed(strategy, method, folder, *, checkpoints, end_at, **options):
    """A run that nothing disturbs; and for each checkpoint a run that stops after it, and one that goes on from it."""
    cases = [case(strategy, method, **options)]
    for at in checkpoints:
        home = str(folder / f"{strategy}-{method}-{at}")
        cases.append(case(strategy, method, home=home, checkpoint_at=at, end_at=end_at, **options))
        cases.append(case(strategy, method, home=home, **options))
    return cases


def assert_goes_on(found, *, checkpoints, name):
    """Check what `undisturbed_and_resumed` gave, and return the first run."""
    whole, *others = found
    for at, went_on in zip(checkpoints, others[1::2], strict=True):
        assert went_on["first_step"] == at, name
        assert went_on["losses"] == whole["losses"], name
        assert all(torch.equal(went_on["weights"][key], weight) for key, weight in whole["weights"].items()), name
    return whole


@pytest.mark.long
def test_every_zero_stage_agrees_with_ddp_over_fifty_steps_for_every_method(rows, base_model):
    options = {"num_steps": 50, "learning_rate": 2e-4}
    for method in METHODS:
        names = ZERO[:2] if method in UNSPLIT else ZERO
        ddp, *others = run_cases([case(name, method, **options) for name in ("ddp", *names)], rows, base_model)
        assert len(ddp["losses"]) == 50
        assert ddp["losses"][-1] != ddp["losses"][0]
        for name, found in zip(names, others, strict=True):
            worst = max(abs(a - b) for a, b in zip(found["losses"], ddp["losses"], strict=True))
            assert worst <= 1e-6, (name, method, worst)


def test_zero_stages_agree_with_ddp_and_each_goes_on_bit_for_bit_from_its_own_checkpoint(rows, base_model, tmp_path):
    """Steps 1 to 3 are the first epoch; the checkpoints are in its middle, and in the second one's.

    Full fine-tuning, bottlenecks and DoRA train vectors beside matrices, and those are another group of the optimizer.
    """
    runs = [(name, "lora", at, 5) for name, at in zip(("ddp", *ZERO), (2, 4, 2, 4), strict=True)]
    runs += [("deepspeed_zero2", "full", 1, 3), ("deepspeed_zero1", "adapter", 1, 3), ("deepspeed_zero2", "dora", 1, 3)]
    dropout = {"dora": {"parameters": {**METHODS["dora"], "lora_dropout": 0.3}}}
    cases = [
        undisturbed_and_resumed(
            *(name, method, tmp_path),
            checkpoints=(at,),
            num_steps=num_steps,
            end_at=at,
            learning_rate=2e-4,
            **dropout.get(method, {}),
        )
        for name, method, at, num_steps in runs
    ]
    found = iter(run_cases([one for of_run in cases for one in of_run], rows, base_model))
    losses = []
    for (name, method, at, _), of_run in zip(runs, cases, strict=True):
        whole = assert_goes_on([next(found) for _ in of_run], checkpoints=(at,), name=(name, method))
        if method == "lora":
            losses.append(whole["losses"])
    for one in losses[1:]:
        assert one == pytest.approx(losses[0], abs=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_bit_for_bit_from_its_first_checkpoint_with_every_strategy(
    method, rows, base_model, tmp_path
):
    options = {"num_steps": 5, "learning_rate": 2e-4, "checkpoints": (1,), "end_at": 1}
    names = ("ddp", *(ZERO[:2] if method in UNSPLIT else ZERO))
    several = [one for name in names for one in undisturbed_and_resumed(name, method, tmp_path, **options)]
    found = run_cases(several, rows, base_model)
    alone = run_cases(undisturbed_and_resumed("single", method, tmp_path, **options), rows, base_model, num_workers=1)
    assert_goes_on(alone, checkpoints=(1,), name="single")
    for index, name in enumerate(names):
        whole = assert_goes_on(found[3 * index : 3 * index + 3], checkpoints=(1,), name=name)
        assert whole["losses"] == pytest.approx(found[0]["losses"], abs=1e-6), name


@pytest.mark.long
def test_other_numbers_of_workers_and_other_strategies_go_on_from_a_checkpoint(rows, base_model, tmp_path):
    home = str(tmp_path / "home")
    (expected,) = run_cases([case("ddp", "full", num_steps=6)], rows, base_model)
    run_cases([case("deepspeed_zero3", "full", num_steps=6, home=home, checkpoint_at=3, end_at=3)], rows, base_model)
    options = {"num_steps": 6, "home": home}
    of_two = run_cases([case(name, "full", **options) for name in ("ddp", *ZERO)], rows, base_model)
    of_one = run_cases([case("single", "full", **options)], rows, base_model, num_workers=1)
    of_three = run_cases([case("deepspeed_zero2", "full", **options)], rows, base_model, num_workers=3)
    for found in (*of_two, *of_one, *of_three):
        assert found["first_step"] == 3
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)


def test_the_workers_of_a_window_are_one_larger_batch(rows, base_model):
    """The same windows of eight rows: one worker with eight at once, or one at a time, or four workers."""
    options = {"num_steps": 4, "of_workers": 1}
    (whole, single_rows) = run_cases(
        [
            case("single", "full", batch_size=8, accumulation=1, **options),
            case("single", "full", batch_size=1, accumulation=8, **options),
        ],
        rows,
        base_model,
        num_workers=1,
    )
    (of_four,) = run_cases([case("ddp", "full", batch_size=2, accumulation=4, **options)], rows, base_model, 4)
    for other in (single_rows, of_four):
        assert other["norms"] == pytest.approx(whole["norms"], abs=1e-6 * max(whole["norms"]) * 10)
        assert other["losses"] == pytest.approx(whole["losses"], abs=1e-5)


def test_an_adapter_that_stage_3_split_to_the_last_tensor_reloads_in_plain_peft(rows, base_model, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    cases = [case(name, "lora", save_to=str(tmp_path / name)) for name in ("deepspeed_zero3", "ddp")]
    run_cases(cases, rows, base_model)
    logits = []
    for name in ("deepspeed_zero3", "ddp"):
        base = AutoModelForCausalLM.from_pretrained(base_model)
        model = PeftModel.from_pretrained(base, tmp_path / name).eval()
        with torch.no_grad():
            logits.append(model(input_ids=torch.arange(3, 20)[None]).logits)
            with model.disable_adapter():
                assert not torch.allclose(model(input_ids=torch.arange(3, 20)[None]).logits, logits[-1], atol=1e-3)
    assert torch.allclose(logits[0], logits[1], atol=1e-5)


@pytest.mark.long
def test_optimizer_state_on_the_cpu_changes_nothing(rows, base_model):
    names = ("deepspeed_zero2", "deepspeed_zero3")
    cases = [case(name, "lora", offload=offload) for offload in ("none", "cpu") for name in names]
    found = run_cases(cases, rows, base_model)
    for expected, got in zip(found[:2], found[2:], strict=True):
        assert got["losses"] == pytest.approx(expected["losses"], abs=1e-6)
