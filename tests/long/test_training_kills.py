"""Workers and drivers killed at random steps: the run goes on to the losses of one that nothing disturbed."""

import random
import re

import pytest
from own_cluster import own_cluster
from tiny_model import make_tiny_model
from training_strikes import Case, Strike, drive, events, outcome

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STRATEGIES = ("ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
TARGETS = ("worker", "all", "driver", "worker", "driver")
MOMENTS = ("begin", "gradient", "writing", "written")
EVERY = 2
"""Steps between checkpoints."""
NUM_STEPS = 24
"""Four epochs of 22 rows, in windows of 4; the last of an epoch is smaller."""


def case(base, strategy, strikes=()):
    training = {"epochs": 4.0, "batch_size": 2, "learning_rate": 1e-2, "lr_scheduler": "cosine", "warmup_steps": 4}
    training |= {"checkpoint_every_steps": EVERY, "log_every_s": 0.0, "padding_free": True, "precision": "fp32"}
    return Case(
        str(base),
        {
            "method": "lora",
            "parameters": {"r": 4, "lora_dropout": 0.2},
            "training": training,
            "distributed": {"workers": 2, "strategy": strategy},
        },
        strikes=list(strikes),
    )


def random_kills(seed):
    """A kill of each target at a step of its own, from the third on; most are in the second epoch and later."""
    rng = random.Random(seed)
    targets = rng.sample(TARGETS, len(TARGETS))
    steps = sorted(rng.sample(range(3, NUM_STEPS - 1), len(TARGETS)))
    return [
        Strike(step, rng.choice(MOMENTS), target, rank=rng.randrange(2))
        for step, target in zip(steps, targets, strict=True)
    ]


@pytest.fixture(scope="module")
def cluster():
    with own_cluster() as (_, variables):
        yield variables


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    # A width that two workers don't divide evenly.
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base", hidden_size=36)


def run_to_the_end(folder, cluster):
    """Start the driver as often as it is killed. Returns how often that was."""
    killed = 0
    while (status := drive(folder, cluster)) == -9:
        killed += 1
    assert status == 0, max(folder.glob("driver-*.log")).read_text()[-3000:]
    return killed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_after_five_random_kills_equal_an_undisturbed_run_bit_for_bit(cluster, base_model, tmp_path, strategy):
    kills = random_kills(f"{strategy}-1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_to_the_end(case(base_model, strategy).write(whole), cluster) == 0
    expected = outcome(whole)
    assert len(expected.get("losses", ())) == NUM_STEPS, expected

    drivers_killed = run_to_the_end(case(base_model, strategy, kills).write(killed), cluster)

    struck = events(killed, "strike")
    assert [strike["asked"]["target"] for strike in struck] == [kill.target for kill in kills]
    assert drivers_killed == TARGETS.count("driver")
    assert any(strike["step"] > NUM_STEPS // 4 and strike["step"] % (NUM_STEPS // 4) for strike in struck)
    went_on = [
        int(found[1])
        for note in events(killed, "note")
        if (found := re.search(r"goes on after step (\d+)", note["text"]))
    ]
    for strike in struck:
        # A driver's death is not its workers': they may get further before they are ended.
        last = (strike["step"] - (strike["asked"]["moment"] == "writing")) // EVERY * EVERY
        later = [step for step in went_on if step >= last]
        assert later, (strike, went_on)
    for step in events(killed, "step"):
        assert step["loss"] == expected["losses"][step["step"] - 1], step
    got = outcome(killed)
    assert got == expected
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (killed / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()
