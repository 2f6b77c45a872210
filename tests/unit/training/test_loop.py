import pytest
import torch

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.errors import TrainingError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import Layout, windows
from llamafarm_ray.training.checkpoints import CheckpointStore, RunState
from llamafarm_ray.training.compute.attention import use_packed_attention
from llamafarm_ray.training.loop import mean_loss, seed_step, train_steps
from llamafarm_ray.training.objectives import PretrainingObjective, SftObjective
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.strategies import LossScale

LAYOUTS = {"padded": Layout(packed=False, pad_id=2), "packed": Layout(packed=True, pad_id=2)}


def steps_of(rows, *, batch_size, accumulation, num_steps=None, layout="padded"):
    plan = BatchPlan(len(rows), batch_size, batch_size * accumulation)
    return windows(
        plan,
        lambda _, skip: iter(rows[skip:]),
        rank=0,
        num_workers=1,
        first_step=0,
        num_steps=num_steps or plan.num_windows,
        layout=LAYOUTS[layout],
    )


def run(strategy, rows, objective=None, seed=0, after_step=None, **cut):
    steps = list(steps_of(rows, **cut))
    state, seen = RunState(), []
    schedule = Schedule("constant", strategy.training.learning_rate, 0, len(steps))
    train_steps(
        strategy,
        objective or SftObjective(),
        iter(steps),
        schedule=schedule,
        state=state,
        seed=seed,
        after_step=after_step or (lambda _, progress: seen.append(progress)),
    )
    return state, seen


def test_accumulated_gradients_are_one_larger_batch_the_ragged_last_window_included(make_strategy, token_rows):
    # SGD, since AdamW's first steps divide out the very scale that is compared.
    losses, weights = [], []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        _, strategy = make_strategy("full", learning_rate=0.1, max_grad_norm=0.0)
        strategy.optimizer = torch.optim.SGD(strategy.module.parameters(), lr=0.1)
        state, _ = run(strategy, token_rows, batch_size=batch_size, accumulation=accumulation)
        losses.append(state.losses)
        weights.append(torch.cat([weight.flatten() for weight in strategy.weights().values()]))
    assert len(losses[0]) == 3, "11 rows: two full windows of 4, and one of 3"
    for other_losses, other_weights in zip(losses[1:], weights[1:], strict=True):
        assert other_losses == pytest.approx(losses[0], abs=1e-6)
        assert torch.allclose(other_weights, weights[0], atol=1e-6)


def test_the_loss_is_the_mean_over_trained_tokens_as_transformers_computes_it(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=1e-9)
    ids, labels = (torch.tensor(part.astype("int64"))[None] for part in token_rows[0][:2])
    expected = strategy.model(input_ids=ids, labels=labels).loss.item()
    state, _ = run(strategy, token_rows[:1], batch_size=1, accumulation=1)
    assert state.losses == pytest.approx([expected], abs=1e-5)


def test_the_same_seed_gives_the_same_losses_and_training_lowers_them(make_strategy, token_rows):
    runs = []
    for _ in range(2):
        _, strategy = make_strategy("lora", learning_rate=1e-2)
        state, seen = run(strategy, token_rows, batch_size=4, accumulation=1, num_steps=9)
        runs.append(state.losses)
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0]
    assert [progress.step for progress in seen] == list(range(1, 10))
    assert [progress.epoch for progress in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert state.num_tokens == 3 * sum(len(row.input_ids) for row in token_rows)
    assert state.num_counted == 3 * sum(int((row.labels >= 0).sum()) for row in token_rows)


def test_the_mean_loss_of_several_batches_is_that_of_one(make_strategy, token_rows):
    _, strategy = make_strategy("lora")
    one = mean_loss(strategy, SftObjective(), steps_of(token_rows, batch_size=11, accumulation=1))
    many = mean_loss(strategy, SftObjective(), steps_of(token_rows, batch_size=2, accumulation=1))
    assert many == pytest.approx(one, abs=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=0.1)

    def poison(state, progress):
        if progress.step == 2:
            with torch.no_grad():
                next(strategy.module.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError, match="loss of step 3 is nan"):
        run(strategy, token_rows, batch_size=4, accumulation=1, after_step=poison)


def test_weights_that_are_no_numbers_are_named_and_no_rate_is_blamed(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=0.1)
    name, weights = next(iter(strategy.model.named_parameters()))
    with torch.no_grad():
        weights[3].fill_(float("nan"))
    with pytest.raises(TrainingError, match=f"loss of step 1 is nan, before .* the weights {name} are not") as ended:
        run(strategy, token_rows, batch_size=11, accumulation=1)
    assert "base model" in ended.value.hint
    assert "learning_rate" not in ended.value.hint


def test_gradients_are_clipped_and_their_norm_before_is_reported(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=0.1, max_grad_norm=1e-3)
    strategy.optimizer = torch.optim.SGD(strategy.module.parameters(), lr=1.0)
    before = torch.cat([weight.flatten() for weight in strategy.weights().values()])
    _, seen = run(strategy, token_rows[:4], batch_size=4, accumulation=1)
    after = torch.cat([weight.flatten() for weight in strategy.weights().values()])
    assert seen[0].grad_norm > 1e-2
    # The schedule sets SGD's rate to 0.1, so the step is a tenth of the clipped gradient.
    assert float((after - before).norm()) == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_state_that_another_strategy_took_over_goes_on_with_the_same_losses_bit_for_bit(
    make_strategy, token_rows, method
):
    parameters = MethodParameters(lora_dropout=0.3) if method == "lora" else None
    _, strategy = make_strategy(method, parameters, learning_rate=1e-2)
    run(strategy, token_rows, batch_size=4, accumulation=1)
    exported = {name: {key: value.clone() for key, value in one.items()} for name, one in strategy.export_state()}
    expected, _ = run(strategy, token_rows, batch_size=4, accumulation=1, seed=5)

    _, other = make_strategy(method, parameters, learning_rate=1e-2)
    other.import_state(exported, num_updates=3)
    torch.rand(7)  # dropout does not depend on what was drawn before
    got, _ = run(other, token_rows, batch_size=4, accumulation=1, seed=5)
    assert got.losses == expected.losses
    assert len(set(got.losses)) == 3


@pytest.mark.parametrize("objective", [SftObjective, PretrainingObjective])
def test_packed_rows_give_the_losses_and_gradients_of_padded_ones(make_strategy, token_rows, objective):
    found = {}
    for layout in LAYOUTS:
        _, strategy = make_strategy("full", learning_rate=0.1, max_grad_norm=0.0)
        use_packed_attention(strategy.module)
        strategy.optimizer = torch.optim.SGD(strategy.module.parameters(), lr=0.1)
        state, seen = run(strategy, token_rows, objective(), batch_size=4, accumulation=1, layout=layout)
        found[layout] = (state.losses, [progress.grad_norm for progress in seen])
    assert found["packed"][0] == pytest.approx(found["padded"][0], abs=1e-5)
    assert found["packed"][1] == pytest.approx(found["padded"][1], abs=1e-5)


def test_fp16_scales_the_loss_and_leaves_overflowing_steps_out(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=1e-2, precision="fp16")
    strategy.set_loss_scale(LossScale(2.0**40))
    before = {name: weight.clone() for name, weight in strategy.weights().items()}
    state, seen = run(strategy, token_rows, batch_size=11, accumulation=1, num_steps=2)
    assert state.num_updates == 0
    assert all(torch.equal(weight, before[name]) for name, weight in strategy.weights().items())
    assert strategy.loss_scale() == LossScale(2.0**38)
    strategy.set_loss_scale(LossScale(2.0**10))
    state, seen = run(strategy, token_rows, batch_size=11, accumulation=1, num_steps=4)
    assert state.num_updates == 4
    assert seen[-1].loss < seen[0].loss


def test_fp16_goes_on_from_a_checkpoint_with_the_scale_and_what_it_counted(make_strategy, token_rows, tmp_path):
    """torch doubles the scale after 2000 steps without an overflow: here that is the step after the checkpoint."""
    _, strategy = make_strategy("lora", learning_rate=1e-2, precision="fp16")
    strategy.set_loss_scale(LossScale(2.0**10, good_steps=1997))
    state, _ = run(strategy, token_rows, batch_size=11, accumulation=1, num_steps=2)
    CheckpointStore(Location(tmp_path), fingerprint="f").save(strategy, state)
    _, other = make_strategy("lora", learning_rate=1e-2, precision="fp16")
    found = CheckpointStore(Location(tmp_path), fingerprint="f").restore(other)
    assert found == state
    assert other.loss_scale() == LossScale(2.0**10, good_steps=1999)
    losses = [run(one, token_rows, batch_size=11, accumulation=1, num_steps=2)[0].losses for one in (strategy, other)]
    assert losses[0] == losses[1]
    assert strategy.loss_scale() == other.loss_scale() == LossScale(2.0**11, good_steps=1)


def test_dropout_is_of_the_seed_the_step_and_the_worker():
    def drawn(*where):
        seed_step(*where)
        return torch.rand(4).tolist()

    places = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 70_000) for rank in (0, 1)]
    assert len({tuple(drawn(*where)) for where in places}) == len(places)
    assert drawn(1, 2, 3) == drawn(1, 2, 3)


def test_a_step_uses_the_dropout_of_its_own_number(make_strategy, token_rows):
    """The same rows and weights in two steps that change nothing: only dropout tells their losses apart."""
    _, strategy = make_strategy("lora", MethodParameters(lora_dropout=0.5), learning_rate=1e-2)
    with torch.no_grad():
        for name, weight in strategy.module.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    strategy.optimizer = torch.optim.SGD([{"params": list(strategy.module.parameters())}], lr=0.0)
    strategy.set_learning_rate = lambda _rate: None
    state, _ = run(strategy, token_rows[:2], batch_size=2, accumulation=1, num_steps=2)
    assert state.losses[0] != state.losses[1]
    again, _ = run(strategy, token_rows[:2], batch_size=2, accumulation=1, num_steps=2)
    assert again.losses == state.losses
