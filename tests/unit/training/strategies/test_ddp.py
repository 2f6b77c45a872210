"""Workers that share nothing talk once a step, however many micro-batches it has."""

import pytest
import torch

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.training.batch_plan import BatchPlan
from llamafarm_ray.training.batches import Layout, windows
from llamafarm_ray.training.checkpoints import RunState
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.loop import train_steps
from llamafarm_ray.training.methods import Precision, find_method
from llamafarm_ray.training.objectives import SftObjective
from llamafarm_ray.training.schedule import Schedule
from llamafarm_ray.training.strategies import Place, find_strategy


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_gradients_are_exchanged_once_a_step(base_model, token_rows):
    place, training = Place(0, 1, torch.device("cpu")), DecidedTraining(learning_rate=1e-3)
    strategy = find_strategy("ddp")(place, Precision("fp32"), training)
    method = find_method("lora")(MethodParameters(r=2))
    model = method.load(base_model, precision=strategy.precision, device=place.device)
    strategy.prepare(method.wrap(model, base_model=base_model))
    exchanged = []

    def count(_, bucket):
        exchanged.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    strategy.model.register_comm_hook(None, count)
    steps = windows(
        BatchPlan(8, batch_size=1, window_rows=4),
        lambda _, skip: iter(token_rows[skip:8]),
        rank=0,
        num_workers=1,
        first_step=0,
        num_steps=2,
        layout=Layout(packed=False, pad_id=2),
    )
    train_steps(
        strategy,
        SftObjective(),
        steps,
        schedule=Schedule("constant", 1e-3, 0, 2),
        state=RunState(),
        seed=0,
        after_step=lambda *_: False,
    )
    assert exchanged.count(0) == 2, "two steps of four micro-batches"
