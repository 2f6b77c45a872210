"""Rows for the objectives that compare, and what their tests do to a step."""

import dataclasses

import numpy as np
import torch

from llamafarm_ray.models.chat import tokenise_turns
from llamafarm_ray.training.batches import Layout, collate
from llamafarm_ray.training.rows import Row

WORDS = ("llama", "farm", "water", "Paris", "spider", "land", "people", "capital", "animal", "degrees")


def prompts(number):
    return [[{"role": "user", "content": f"Question {index} of {WORDS[index % 10]}?"}] for index in range(number)]


def text(seed, most=9):
    generator = np.random.default_rng(seed)
    return " ".join(generator.choice(WORDS, size=generator.integers(1, most))) + f" {seed}."


def tokenised(objective, tokenizer, rows, max_length=128):
    """Rows as workers see them."""
    found = [one for row in rows for one in objective.tokenise(tokenizer, row, max_length)]
    assert not any(row.dropped for row in found), [row.dropped for row in found]
    return [Row(np.array(row.input_ids), np.array(row.labels), np.array(row.parts), row.tag) for row in found]


def whole_chat(tokenizer, messages):
    """A chat that is one sequence."""
    (chat,) = tokenise_turns(tokenizer, messages)
    return chat


def cut(rows, batch_size, *, packed=False, empty=0):
    """Micro-batches, and as many empty ones as are asked for."""
    layout = Layout(packed=packed, pad_id=2)
    cuts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)] + [[]] * empty
    return [collate(part, layout) for part in cuts]


@dataclasses.dataclass
class Step:
    loss: float
    figures: dict
    gradients: dict


def step(objective, strategy, batches):
    """What the loop does of a step on one worker, up to the gradient."""
    strategy.model.train()
    strategy.module.zero_grad()
    total = sum(objective.count(batch) for batch in batches)
    contexts = objective.prepare(strategy, batches, total)
    assert strategy.model.training
    loss, figures = 0.0, {}
    for batch, context in zip(batches, contexts, strict=True):
        found = objective.loss(strategy.model, batch, context)
        (found.total / total).backward()
        loss += float(found.reported) / total
        for name, value in found.sums.items():
            figures[name] = figures.get(name, 0.0) + float(value) / total
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in strategy.module.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
    return Step(loss, figures, gradients)


def assert_same(one, other, tolerance=1e-6):
    assert abs(one.loss - other.loss) < tolerance
    assert one.figures.keys() == other.figures.keys()
    for name, value in one.figures.items():
        assert abs(value - other.figures[name]) < 10 * tolerance, name
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(other.gradients[name], gradient, atol=tolerance, rtol=0, msg=name)


def moved(strategy, scale=0.3):
    """Change the trained weights, so that the model differs from its base."""
    with torch.no_grad():
        for name, parameter in strategy.module.named_parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(len(name))
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def at_once(run, num_workers):
    """Run ``run(rank, exchange)`` as that many workers in threads; ``exchange(value)`` gives everybody's values."""
    import threading

    slots, barrier, results, errors = [None] * num_workers, threading.Barrier(num_workers, timeout=60), {}, []

    def exchange(rank, value):
        slots[rank] = value
        barrier.wait()
        everything = list(slots)
        barrier.wait()
        return everything

    def work(rank):
        try:
            results[rank] = run(rank, lambda value: exchange(rank, value))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(num_workers)]


def one_of(strategy, rank, num_workers, exchange):
    """Make a strategy of one worker one of several, which meet in threads."""
    strategy.place = dataclasses.replace(strategy.place, rank=rank, num_workers=num_workers)
    strategy.gather = exchange
    strategy.gather_rows = lambda rows: list(exchange(rows))
    strategy.sum = lambda values: [sum(each) for each in zip(*exchange(list(values)), strict=True)]
    return strategy


def summed(steps, totals):
    """Several workers' steps as the one step that they are; ``totals`` are what each counted."""
    total = sum(totals)

    def mean(values):
        return sum(value * count for value, count in zip(values, totals, strict=True)) / total

    return Step(
        mean([one.loss for one in steps]),
        {name: mean([one.figures[name] for one in steps]) for name in steps[0].figures},
        {name: mean([one.gradients[name] for one in steps]) for name in steps[0].gradients},
    )


def make_strategy(base_model, method="lora", *, task="causal-lm", reference=None, parameters=None):
    """The model wrapped for a method, on one worker, with the frozen copy that full fine-tuning compares with."""
    from llamafarm_ray.config import MethodParameters
    from llamafarm_ray.models.loading import load_model
    from llamafarm_ray.training.decided import DecidedTraining
    from llamafarm_ray.training.methods import Precision, find_method
    from llamafarm_ray.training.strategies import Place, find_strategy

    torch.manual_seed(0)
    place = Place(rank=0, num_workers=1, device=torch.device("cpu"))
    made = find_method(method)(parameters or MethodParameters())
    strategy = find_strategy("single")(place, Precision("fp32"), DecidedTraining())
    model = made.load(base_model, precision=strategy.precision, device=place.device, task=task)
    strategy.prepare(made.wrap(model, base_model=base_model, task=task))
    if reference is not None:
        strategy.keep_reference(load_model(reference, dtype=torch.float32, task=task))
    strategy.model.train()
    return strategy
