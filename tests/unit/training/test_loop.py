import pytest
import torch

from llamafarm_ray.errors import TrainingError
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import windows
from llamafarm_ray.training.checkpoints import RunState
from llamafarm_ray.training.loop import mean_loss, train_steps
from llamafarm_ray.training.objectives import SftObjective
from llamafarm_ray.training.schedule import Schedule


def steps_of(rows, *, batch_size, accumulation, num_steps=None):
    plan = BatchPlan(len(rows), 1, batch_size, accumulation)
    return windows(plan, lambda _: iter(rows), first_step=0, num_steps=num_steps or plan.num_windows, pad_id=2)


def run(strategy, rows, **cut):
    steps = list(steps_of(rows, **cut))
    state, seen = RunState(), []
    schedule = Schedule("constant", strategy.training.learning_rate, 0, len(steps))
    train_steps(
        strategy,
        SftObjective,
        iter(steps),
        schedule=schedule,
        state=state,
        after_step=lambda _, progress: seen.append(progress),
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
    ids, labels = token_rows[0]
    expected = strategy.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
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
    assert state.num_tokens == 3 * sum(len(ids) for ids, _ in token_rows)
    assert state.num_trained_tokens == 3 * sum(label >= 0 for _, labels in token_rows for label in labels)


def test_the_mean_loss_of_several_batches_is_that_of_one(make_strategy, token_rows):
    _, strategy = make_strategy("lora")
    one = mean_loss(strategy, SftObjective, steps_of(token_rows, batch_size=11, accumulation=1))
    many = mean_loss(strategy, SftObjective, steps_of(token_rows, batch_size=2, accumulation=1))
    assert many == pytest.approx(one, abs=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=0.1)

    def poison(state, progress):
        if progress.step == 2:
            with torch.no_grad():
                next(strategy.module.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError, match="loss of step 3 is nan"):
        train_steps(
            strategy,
            SftObjective,
            steps_of(token_rows, batch_size=4, accumulation=1),
            schedule=Schedule("constant", 0.1, 0, 3),
            state=RunState(),
            after_step=poison,
        )


def test_gradients_are_clipped_and_their_norm_before_is_reported(make_strategy, token_rows):
    _, strategy = make_strategy("full", learning_rate=0.1, max_grad_norm=1e-3)
    strategy.optimizer = torch.optim.SGD(strategy.module.parameters(), lr=1.0)
    before = torch.cat([weight.flatten() for weight in strategy.weights().values()])
    _, seen = run(strategy, token_rows[:4], batch_size=4, accumulation=1)
    after = torch.cat([weight.flatten() for weight in strategy.weights().values()])
    assert seen[0].grad_norm > 1e-2
    # The schedule sets SGD's rate to 0.1, so the step is a tenth of the clipped gradient.
    assert float((after - before).norm()) == pytest.approx(1e-4, rel=1e-2)


def test_a_saved_state_goes_on_with_the_same_losses(make_strategy, token_rows, tmp_path):
    _, strategy = make_strategy("lora", learning_rate=1e-2)
    run(strategy, token_rows, batch_size=4, accumulation=1)
    strategy.save(tmp_path)
    expected, _ = run(strategy, token_rows, batch_size=4, accumulation=1)

    _, other = make_strategy("lora", learning_rate=1e-2)
    other.load(tmp_path)
    got, _ = run(other, token_rows, batch_size=4, accumulation=1)
    assert got.losses == pytest.approx(expected.losses, abs=1e-7)
