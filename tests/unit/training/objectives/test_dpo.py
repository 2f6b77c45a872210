import threading

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
from torch.nn import functional

from llamafarm_ray.config.sections.objectives import DpoSettings
from llamafarm_ray.training.objectives import DpoObjective, find_objective
from llamafarm_ray.training.rows import IGNORED

ROWS = [
    {"messages": prompt, "chosen": text(index), "rejected": text(100 + index, most=20)}
    for index, prompt in enumerate(prompts(8))
]
SETTINGS = [
    DpoSettings(),
    DpoSettings(beta=0.5, label_smoothing=0.2),
    DpoSettings(loss_type="ipo"),
    DpoSettings(loss_type="hinge", beta=0.3),
]


def test_a_row_is_the_chosen_and_the_rejected_answer_after_the_same_prompt(tokenizer):
    (row,) = DpoObjective().tokenise(tokenizer, ROWS[0], 128)
    first = row.lengths[0]
    assert sum(row.lengths) == len(row.input_ids) == len(row.labels)
    for ids, labels, answer in (
        (row.input_ids[:first], row.labels[:first], ROWS[0]["chosen"]),
        (row.input_ids[first:], row.labels[first:], ROWS[0]["rejected"]),
    ):
        assert tokenizer.decode([label for label in labels if label != IGNORED]) == f"{answer}<|im_end|>"
        prompt = tokenizer.decode([token for token, label in zip(ids, labels, strict=True) if label == IGNORED])
        assert prompt.startswith(
            f"<|im_start|>user\n{ROWS[0]['messages'][0]['content']}<|im_end|>\n<|im_start|>assistant"
        )


def test_only_the_compared_answer_is_trained_not_earlier_ones(tokenizer):
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Llama"}]
    (row,) = DpoObjective().tokenise(tokenizer, {**ROWS[0], "messages": earlier + ROWS[0]["messages"]}, 128)
    trained = tokenizer.decode([label for label in row.labels[: row.lengths[0]] if label != IGNORED])
    assert trained == f"{ROWS[0]['chosen']}<|im_end|>"


@pytest.mark.parametrize(
    ("chosen", "rejected", "max_length", "reason"),
    [
        ("water", "water", 128, "chosen and rejected are alike"),
        ("water farm", "water land", 26, "chosen and rejected are alike up to max_length"),
        ("water", "land", 5, "prompt longer than max_length"),
    ],
)
def test_a_pair_that_says_nothing_is_dropped_with_the_reason(tokenizer, chosen, rejected, max_length, reason):
    row = {"messages": [{"role": "user", "content": "Say: llama"}], "chosen": chosen, "rejected": rejected}
    if "up to" in reason:  # cut after the word they share
        whole = DpoObjective().tokenise(tokenizer, row, 128)[0]
        first, second = whole.input_ids[: whole.lengths[0]], whole.input_ids[whole.lengths[0] :]
        max_length = next(place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert DpoObjective().tokenise(tokenizer, row, max_length)[0].dropped == reason


def by_hand(strategy, tokenizer, settings):
    """TRL's formulas (trl 1.16, DPOTrainer._compute_loss) on the logits of each answer by itself."""
    losses, accuracies = [], []
    for row in ROWS:
        ratios, lengths = [], []
        for key in ("chosen", "rejected"):
            chat = [*row["messages"], {"role": "assistant", "content": row[key]}]
            ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
            prompt = tokenizer.apply_chat_template(
                row["messages"], tokenize=True, add_generation_prompt=True, return_dict=False
            )
            ids = torch.tensor([ids[:-1]])  # without the line end after <|im_end|>
            found = []
            for model in ("trained", "base"):
                with torch.no_grad():
                    if model == "base":
                        with strategy.module.disable_adapter():
                            logits = strategy.module(input_ids=ids).logits
                    else:
                        logits = strategy.module(input_ids=ids).logits
                each = functional.log_softmax(logits[:, :-1], -1).gather(2, ids[:, 1:, None])[0, :, 0]
                found.append(each[len(prompt) - 1 :].sum())
                lengths.append(len(each[len(prompt) - 1 :]))
            ratios.append(found[0] - found[1])
        chosen, rejected = ratios
        delta = chosen - rejected
        if settings.loss_type == "sigmoid":
            smooth = settings.label_smoothing
            loss = -functional.logsigmoid(settings.beta * delta) * (1 - smooth)
            loss -= functional.logsigmoid(-settings.beta * delta) * smooth
        elif settings.loss_type == "hinge":
            loss = torch.relu(1 - settings.beta * delta)
        else:
            loss = (chosen / lengths[0] - rejected / lengths[2] - 1 / (2 * settings.beta)) ** 2
        losses.append(float(loss))
        accuracies.append(float(delta > 0))
    return sum(losses) / len(losses), sum(accuracies) / len(accuracies)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.model_dump_json(exclude_defaults=True))
def test_the_loss_is_trls_on_the_same_logits(strategy, tokenizer, settings):
    objective = DpoObjective(settings)
    found = step(objective, strategy, cut(tokenised(objective, tokenizer, ROWS), 3))
    loss, accuracy = by_hand(strategy, tokenizer, settings)
    assert found.loss == pytest.approx(loss, abs=1e-5, rel=1e-5)
    assert found.figures["reward_accuracy"] == pytest.approx(accuracy)


def test_the_loss_is_what_trls_trainer_computes(base_model, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    strategy = make_strategy(base_model, "full", reference=base_model)
    moved(strategy, scale=0.05)
    objective = DpoObjective(DpoSettings(beta=0.4))
    ours = step(objective, strategy, cut(tokenised(objective, tokenizer, ROWS), 8))
    rows = [
        {
            "prompt": tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True),
            "chosen": f"{row['chosen']}<|im_end|>",
            "rejected": f"{row['rejected']}<|im_end|>",
        }
        for row in ROWS
    ]
    tokenizer.eos_token, before = "<|im_end|>", tokenizer.eos_token
    try:
        trainer = DPOTrainer(
            strategy.module,
            ref_model=strategy._reference,
            args=DPOConfig(
                str(tmp_path), beta=0.4, per_device_train_batch_size=8, use_cpu=True, report_to=[], bf16=False
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        inputs = next(iter(trainer.get_train_dataloader()))
        theirs = float(trainer._compute_loss(strategy.module, inputs, return_outputs=False).detach())
    finally:
        tokenizer.eos_token = before
    assert ours.loss == pytest.approx(theirs, abs=1e-5)
    assert abs(theirs - 0.6931) > 0.01, "the model differs from its base"


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.loss_type)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_accumulated_batches_are_one_larger_batch_empty_ones_included(strategy, tokenizer, settings, batch_size):
    objective = DpoObjective(settings)
    rows = tokenised(objective, tokenizer, ROWS)
    assert_same(
        step(objective, strategy, cut(rows, 8)), step(objective, strategy, cut(rows, batch_size, empty=2)), 2e-6
    )


def test_packed_pairs_are_padded_ones(base_model, tokenizer):
    from llamafarm_ray.training.compute.attention import use_packed_attention

    strategy = make_strategy(base_model)
    moved(strategy)
    use_packed_attention(strategy.module.get_base_model())
    objective = DpoObjective()
    rows = tokenised(objective, tokenizer, ROWS)
    assert_same(
        step(objective, strategy, cut(rows, 8)),
        step(objective, strategy, cut(rows, 3, packed=True, empty=1)),
        1e-5,
    )


def test_two_workers_are_one(base_model, tokenizer):
    objective = DpoObjective()
    rows = tokenised(objective, tokenizer, ROWS[:7])
    lock = threading.Lock()

    def work(rank, exchange):
        with lock:
            strategy = make_strategy(base_model)
            moved(strategy)
        share = rows[rank::2]
        return step(objective, one_of(strategy, rank, 2, exchange), cut(share, 2)), len(share)

    steps, totals = zip(*at_once(work, 2), strict=True)
    strategy = make_strategy(base_model)
    moved(strategy)
    assert_same(step(objective, strategy, cut(rows, 7)), summed(steps, totals), 2e-6)


def test_an_untrained_adapter_is_at_the_loss_of_a_coin_and_rewards_nothing(base_model, tokenizer):
    objective = DpoObjective()
    found = step(objective, make_strategy(base_model), cut(tokenised(objective, tokenizer, ROWS), 4))
    assert found.loss == pytest.approx(0.693147, abs=1e-5)
    assert all(value == pytest.approx(0.0, abs=1e-5) for value in found.figures.values())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_few_steps_make_the_chosen_answers_likelier(base_model, tokenizer, method):
    strategy = make_strategy(base_model, method, reference=base_model if method == "full" else None)
    objective = find_objective("dpo", DpoSettings(beta=0.5))
    batches = cut(tokenised(objective, tokenizer, ROWS), 4)
    optimizer = torch.optim.AdamW(strategy.module.parameters(), lr=5e-3)
    found = []
    for _ in range(8):
        found.append(step(objective, strategy, batches))
        optimizer.step()
    assert found[-1].loss < 0.5 < found[0].loss
    assert found[-1].figures["reward_accuracy"] > 0.8
    assert found[-1].figures["reward_margin"] == pytest.approx(
        found[-1].figures["chosen_reward"] - found[-1].figures["rejected_reward"], abs=1e-5
    )
