import threading

import numpy as np
import pytest
import torch
from objective_steps import (
    assert_same,
    at_once,
    cut,
    make_strategy,
    moved,
    one_of,
    prompts,
    step,
    summed,
    text,
    tokenised,
)

from llamafarm_ray.config.sections.objectives import KtoSettings
from llamafarm_ray.training.compute.forward import sequence_log_probs
from llamafarm_ray.training.objectives import KtoObjective, find_objective
from llamafarm_ray.training.objectives.kto import Exchanged, mismatched
from llamafarm_ray.training.objectives.sequences import batch_of
from llamafarm_ray.training.rows import IGNORED

ROWS = [
    {"messages": [*prompt, {"role": "assistant", "content": text(index, most=20)}], "label": index % 3 != 0}
    for index, prompt in enumerate(prompts(8))
]


def gains(strategy, batch):
    with torch.no_grad():
        now = sequence_log_probs(strategy.model, batch)[0]
        with strategy.module.disable_adapter():
            return now - sequence_log_probs(strategy.model, batch)[0]


def test_the_loss_is_the_papers_on_the_same_logits(strategy, tokenizer):
    settings = KtoSettings(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    objective = KtoObjective(settings)
    rows = tokenised(objective, tokenizer, ROWS)
    (batch,) = cut(rows, 8)
    pairs = mismatched([Exchanged.of(np.asarray(row.input_ids), np.asarray(row.labels)) for row in rows])
    z0 = max(0.0, float(gains(strategy, batch_of(list(pairs.values()), batch)).mean()))
    ratios = gains(strategy, batch)
    # trl 1.16, KTOTrainer: weight * (1 - sigmoid(beta * (ratio - kl))), and (kl - ratio) for what was not liked
    losses = [
        1.5 * (1 - torch.sigmoid(0.3 * (ratio - z0))) if row["label"] else 0.5 * (1 - torch.sigmoid(0.3 * (z0 - ratio)))
        for ratio, row in zip(ratios, ROWS, strict=True)
    ]
    found = step(objective, strategy, [batch])
    assert found.loss == pytest.approx(float(sum(losses)) / 8, abs=1e-6)
    assert found.figures["kl"] == pytest.approx(z0, abs=1e-4)
    liked = torch.tensor([row["label"] for row in ROWS])
    assert found.figures["desirable_reward"] == pytest.approx(0.3 * float(ratios[liked].mean()), abs=1e-5)
    assert found.figures["undesirable_reward"] == pytest.approx(0.3 * float(ratios[~liked].mean()), abs=1e-5)


def test_the_distance_from_the_base_model_is_not_below_nothing(base_model, tokenizer):
    objective = KtoObjective()
    strategy = make_strategy(base_model)
    rows = tokenised(objective, tokenizer, ROWS)
    signs = []
    for seed in range(6):
        moved(strategy, scale=0.2 + 0.1 * seed)
        contexts = objective.prepare(strategy, cut(rows, 8), 8)
        pairs = mismatched([Exchanged.of(np.asarray(row.input_ids), np.asarray(row.labels)) for row in rows])
        mean = float(gains(strategy, batch_of(list(pairs.values()), cut(rows, 8)[0])).mean())
        assert contexts[0].z0 == pytest.approx(max(0.0, mean), abs=1e-4)
        signs.append(mean < 0)
    assert any(signs), "the mismatched gain was never negative, so nothing was seen"


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_accumulated_batches_are_one_larger_batch_empty_ones_included(base_model, tokenizer, batch_size, packed):
    from llamafarm_ray.training.compute.attention import use_packed_attention

    strategy = make_strategy(base_model)
    moved(strategy)
    use_packed_attention(strategy.module.get_base_model())
    objective = KtoObjective()
    rows = tokenised(objective, tokenizer, ROWS)
    whole = step(objective, strategy, cut(rows, 8))
    assert_same(whole, step(objective, strategy, cut(rows, batch_size, packed=packed, empty=2)), 5e-6)


def test_two_workers_are_one(base_model, tokenizer):
    objective = KtoObjective(KtoSettings(undesirable_weight=2.0))
    rows = tokenised(objective, tokenizer, ROWS[:7])
    lock = threading.Lock()

    def work(rank, exchange):
        with lock:
            strategy = make_strategy(base_model)
            moved(strategy)
        share = rows[rank::2]
        batches = cut(share, 2)
        # The loop tells every worker what all of them count; the figures' scales go by it.
        total, contexts = 7, None
        contexts = objective.prepare(one_of(strategy, rank, 2, exchange), batches, total)
        fixed = type("Fixed", (), {"prepare": lambda *_: contexts, "loss": objective.loss, "count": objective.count})
        return step(fixed(), strategy, batches), len(share)

    steps, totals = zip(*at_once(work, 2), strict=True)
    strategy = make_strategy(base_model)
    moved(strategy)
    assert_same(step(objective, strategy, cut(rows, 7)), summed(steps, totals), 5e-6)


@pytest.mark.parametrize("label", [True, False])
def test_a_window_of_one_kind_only_works(strategy, tokenizer, label):
    objective = KtoObjective()
    found = step(
        objective, strategy, cut(tokenised(objective, tokenizer, [{**row, "label": label} for row in ROWS]), 2)
    )
    assert 0 < found.loss < 1
    assert found.figures["undesirable_reward" if label else "desirable_reward"] == 0.0
    assert any(float(gradient.abs().max()) > 0 for gradient in found.gradients.values())


def test_a_window_of_one_row_is_measured_from_the_base_model_itself(strategy, tokenizer):
    objective = KtoObjective()
    rows = tokenised(objective, tokenizer, ROWS[:1])
    assert objective.prepare(strategy, cut(rows, 1), 1)[0].z0 == 0.0
    assert 0 < step(objective, strategy, cut(rows, 1)).loss < 1


def test_each_question_gets_the_answer_to_another_one():
    rows = [Exchanged((1, 2), (9,)), Exchanged((1, 2), (8, 7)), Exchanged((3,), (6, 6, 6, 6)), Exchanged((4, 4), (5,))]
    pairs = {row: ids.tolist() for row, (ids, _) in mismatched(rows).items()}
    assert pairs == {
        rows[1]: [1, 2, 6, 6, 6, 6],  # whole, though no row is as long
        rows[0]: [1, 2, 6, 6, 6, 6],
        rows[2]: [3, 5],
        rows[3]: [4, 4, 8, 7],
    }
    labels = mismatched(rows)[rows[3]][1].tolist()
    assert labels == [IGNORED, IGNORED, 8, 7]


def test_a_pair_is_cut_where_rows_are_and_nowhere_else():
    rows = [Exchanged((1, 2), (9,)), Exchanged((3,), (6, 6, 6, 6))]
    assert mismatched(rows, 5)[rows[0]][0].tolist() == [1, 2, 6, 6, 6]
    assert find_objective("kto", max_length=5).max_length == 5


def test_pairs_depend_on_the_rows_and_not_on_their_order():
    generator = np.random.default_rng(0)
    rows = [Exchanged(tuple(generator.integers(0, 5, 3)), tuple(generator.integers(0, 5, 4))) for _ in range(20)]
    one = mismatched(rows)
    other = mismatched([rows[place] for place in generator.permutation(20)])
    assert {row: ids.tolist() for row, (ids, _) in one.items()} == {
        row: ids.tolist() for row, (ids, _) in other.items()
    }


def test_one_question_asked_twice_has_no_other_answer():
    assert mismatched([Exchanged((1,), (2,)), Exchanged((1,), (3,))]) == {}
    assert mismatched([]) == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROWS[0], "label": None}, "no label"),
        ({"messages": prompts(1)[0], "label": True}, "no answer at the end"),
        ({"messages": [], "label": True}, "no answer at the end"),
    ],
)
def test_a_row_of_no_use_is_dropped_with_the_reason(tokenizer, row, reason):
    assert KtoObjective().tokenise(tokenizer, row, 128)[0].dropped == reason


def test_a_few_steps_tell_the_liked_from_the_others(base_model, tokenizer):
    strategy = make_strategy(base_model)
    objective = find_objective("kto", KtoSettings(beta=0.5))
    batches = cut(tokenised(objective, tokenizer, ROWS), 4)
    optimizer = torch.optim.AdamW(strategy.module.parameters(), lr=5e-3)
    found = []
    for _ in range(12):
        found.append(step(objective, strategy, batches))
        optimizer.step()
    assert found[0].loss == pytest.approx(0.5, abs=1e-6), "an untrained adapter gains nothing"
    assert found[-1].loss < 0.3
    assert found[-1].figures["desirable_reward"] > found[-1].figures["undesirable_reward"]
