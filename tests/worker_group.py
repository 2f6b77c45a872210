"""Several training workers without Ray: processes that meet over gloo, and what they run."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["Case", "run_cases"]

Case = dict[str, Any]
"""What a run is: ``strategy``, ``method``, and any of ``parameters``, ``objective``, ``num_steps``, ``batch_size``,
``accumulation``, ``packed``, ``seed``, ``checkpoint_at``, ``home``, ``learning_rate``, ``offload``, ``save_to``,
``precision``, ``gpu``."""


_IMPORTED = ("accelerate", "deepspeed", "peft", "torch", "transformers", "llamafarm_ray.training.worker")


def run_cases(cases: list[Case], rows: list[Any], base_model: Path, num_workers: int = 2) -> list[dict[str, Any]]:
    """Run each case on ``num_workers`` processes, one case after another. Returns what rank 0 found of each."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder, "answers.pt")
        group = (num_workers, Path(folder, "meet"), cases, rows, base_model, answers)
        if any(case.get("gpu") for case in cases):
            torch.multiprocessing.spawn(_worker, group, nprocs=num_workers)
        else:
            _parent().submit(_fork, group).result()
            assert not Path(folder, "compiled").exists(), "no run waits for a compiler"
        found: list[dict[str, Any]] = torch.load(answers, weights_only=False)
        return found


@functools.cache
def _parent() -> ProcessPoolExecutor:
    """A process that has imported, once, what takes each worker eight seconds; workers are forked from it."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_import)


def _import() -> None:
    from torch.multiprocessing import _prctl_pr_set_pdeathsig

    _prctl_pr_set_pdeathsig(signal.SIGKILL)  # it would wait for ever where the tests were killed
    os.environ["DS_ACCELERATOR"] = "cpu"
    for name in _IMPORTED:
        importlib.import_module(name)


def _fork(group: tuple[Any, ...]) -> None:
    import torch.multiprocessing as mp

    mp.start_processes(_worker, group, nprocs=group[0], start_method="fork")


def _worker(rank, num_workers, meet, cases, rows, base_model, answers):
    import torch

    from llamafarm_ray.models.tokenizer import quiet_libraries

    quiet_libraries()
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)}
    os.environ |= {"LOCAL_SIZE": str(num_workers), "MASTER_ADDR": "127.0.0.1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["TORCH_EXTENSIONS_DIR"] = str(answers.with_name("compiled"))
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if any(case.get("gpu") for case in cases) else torch.device("cpu")
    if device.type == "cuda":
        del os.environ["DS_ACCELERATOR"]
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{meet}", rank=rank, world_size=num_workers)
    from llamafarm_ray.training.strategies import Place

    found = [_run(case, rows, base_model, Place(rank, num_workers, device)) for case in cases]
    if rank == 0:
        torch.save(found, answers)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _run(case, rows, base_model, place):
    import torch

    from llamafarm_ray.config import Distributed, MethodParameters
    from llamafarm_ray.storage import Location
    from llamafarm_ray.training.batch_plan import BatchPlan
    from llamafarm_ray.training.batches import Layout, windows
    from llamafarm_ray.training.checkpoints import CheckpointStore
    from llamafarm_ray.training.compute.attention import use_packed_attention
    from llamafarm_ray.training.decided import DecidedTraining
    from llamafarm_ray.training.loop import train_steps
    from llamafarm_ray.training.methods import Precision, find_method
    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.schedule import Schedule
    from llamafarm_ray.training.strategies import find_strategy

    seed, num_steps = case.get("seed", 0), case.get("num_steps", 4)
    method = find_method(case["method"])(MethodParameters(**case.get("parameters", {})))
    objective = find_objective(case.get("objective", "sft"))
    training = DecidedTraining(batch_size=case.get("batch_size", 2), learning_rate=case.get("learning_rate", 1e-2))
    distributed = Distributed(
        strategy=case["strategy"] if case.get("offload") else "auto", offload=case.get("offload", "none")
    )
    strategy = find_strategy(case["strategy"])(place, Precision(case.get("precision", "fp32")), training, distributed)
    torch.manual_seed(seed)
    with strategy.loading():
        model = method.load(base_model, precision=strategy.precision, device=place.device, task=objective.task)
    packed = case.get("packed", method.packable)
    if packed:
        use_packed_attention(model)
    module = method.wrap(model, base_model=base_model, task=objective.task)
    strategy.prepare(module)
    if objective.needs_reference and not hasattr(module, "disable_adapter"):
        strategy.keep_reference(
            method.load(base_model, precision=strategy.precision, device=place.device, task=objective.task)
        )
    store = CheckpointStore(Location(case["home"]), fingerprint="f", keep=9) if "home" in case else None
    state = store.restore(strategy) if store else None
    if state is None:
        from llamafarm_ray.training.checkpoints import RunState

        state = RunState()
    first_step, norms, speeds = state.step, [], []

    def after_step(state, progress):
        norms.append(progress.grad_norm)
        speeds.append(progress.tokens_per_s)
        if store and state.step == case.get("checkpoint_at"):
            store.save(strategy, state)
        return state.step == case.get("end_at")

    plan = BatchPlan(
        len(rows), training.batch_size, training.batch_size * case.get("accumulation", 2) * case.get("of_workers", 2)
    )
    steps = windows(
        plan,
        lambda epoch, skip: iter((rows if epoch % 2 == 0 else rows[::-1])[skip:]),
        rank=place.rank,
        num_workers=place.num_workers,
        first_step=first_step,
        num_steps=num_steps,
        layout=Layout(packed, pad_id=2),
    )
    schedule = Schedule("linear", training.learning_rate, 2, num_steps)
    train_steps(strategy, objective, steps, schedule=schedule, state=state, seed=seed, after_step=after_step)
    weights = strategy.weights()
    if "save_to" in case and place.rank == 0:
        Path(case["save_to"]).mkdir(parents=True)
        method.save(module, weights, Path(case["save_to"]))
    return {
        "losses": state.losses,
        "norms": norms,
        "first_step": first_step,
        "weights": weights,
        "tokens_per_s": float(torch.tensor(speeds).median()) if speeds else 0.0,
    }
