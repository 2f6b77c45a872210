"""Memory that estimates predict, beside what training processes take: every method on three sizes of model.

Run ``make bench BENCH=estimates``; with ``ARGS=--quick`` to see that it works. The last line is one JSON object:
``{"benchmark": "estimates", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.

Each run is a process of its own, a fork of one that has imported everything: it loads a Llama of random weights (bf16
files, as hubs have them), wraps it as the method does, and trains two steps in fp32 with the objective and the strategy
of a real run. Measured is the largest resident memory that the kernel notes (VmHWM), reset once the model is loaded,
less what the process held after a step of a tiny model: that is the model's part. For LoRA it is also the largest
resident memory of a new process from its start to its end (ru_maxrss), libraries and loading included.

glibc keeps freed blocks of up to 32 MB for itself by default, so that a process holds up to half as much again as it
uses. The runs have MALLOC_MMAP_THRESHOLD_ at 1 MiB, which gives such blocks back; one run without it is noted.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafarm_ray.config import METHODS, Distributed, MethodParameters
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.estimate import ModelShape, Setup, estimate_memory

GOAL = 0.15
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1024**2)}
THREADS = 2


@dataclass(frozen=True)
class Size:
    """A Llama and a batch for it."""

    config: dict[str, int]
    batch_size: int
    length: int


SIZES = {
    "12M": Size(
        {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4}
        | {"num_key_value_heads": 4, "vocab_size": 16000},
        batch_size=4,
        length=256,
    ),
    "60M": Size(
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
        | {"num_key_value_heads": 4, "vocab_size": 32000},
        batch_size=4,
        length=256,
    ),
    "150M": Size(
        {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 14, "num_attention_heads": 12}
        | {"num_key_value_heads": 4, "vocab_size": 32000},
        batch_size=2,
        length=256,
    ),
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}


@dataclass(frozen=True)
class Run:
    """What a child process trains."""

    folder: str
    tiny: str
    method: str
    batch_size: int
    length: int
    packed: bool = False
    checkpointing: bool = False
    accumulation: int = 1
    dropout: float = 0.0
    ragged: bool = False

    @property
    def parameters(self) -> MethodParameters:
        return MethodParameters(r=16, lora_dropout=self.dropout)

    def setup(self) -> Setup:
        """The same run, for the estimate."""
        return Setup(
            method=self.method,
            parameters=self.parameters,
            precision="fp32",
            batch_size=self.batch_size,
            max_length=self.length,
            gradient_accumulation_steps=self.accumulation,
            gradient_checkpointing=self.checkpointing,
            device="cpu",
            logit_positions=self.batch_size * (self.length // 2),
            packed=self.packed,
            masked=self.ragged and not self.packed,
        )


def train(run: Run) -> dict[str, Any]:
    """The child: train, and say what it took."""
    import torch

    torch.set_num_threads(THREADS)
    _steps(dataclasses.replace(run, folder=run.tiny, batch_size=2, length=16), 1)
    base = _status("VmRSS")
    return {"base": base, **_steps(run, 2), "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _steps(run: Run, number: int) -> dict[str, Any]:
    import torch

    from llamafarm_ray.training.compute.attention import use_packed_attention
    from llamafarm_ray.training.methods import Precision, find_method
    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.strategies import Place, find_strategy

    method, device = find_method(run.method)(run.parameters), torch.device("cpu")
    training = DecidedTraining(batch_size=run.batch_size, gradient_checkpointing=run.checkpointing)
    strategy = find_strategy("single")(Place(0, 1, device), Precision("fp32"), training, Distributed())
    model = method.load(Path(run.folder), precision=strategy.precision, device=device)
    if run.packed:
        use_packed_attention(model)
    model = method.wrap(model, base_model=Path(run.folder))
    if run.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    strategy.prepare(model)
    strategy.model.train()
    objective = find_objective("sft")
    seconds = []
    for _ in range(number):
        began = time.perf_counter()
        for turn in range(run.accumulation):
            batch = _batch(run, int(model.config.vocab_size))
            with strategy.accumulating(last=turn == run.accumulation - 1):
                loss = objective.loss(strategy.model, batch)
                strategy.backward(loss.total / objective.count(batch))
            del loss
        strategy.step()
        seconds.append(time.perf_counter() - began)
    return {"training": _status("VmHWM"), "seconds": min(seconds)}


def _batch(run: Run, vocab_size: int) -> Any:
    """Random tokens, the second half of each row trained; with ``ragged`` the last row is shorter by a token."""
    import numpy as np

    from llamafarm_ray.training.batches import Layout, collate
    from llamafarm_ray.training.rows import IGNORED, Row

    rng, rows = np.random.default_rng(0), []
    for number in range(run.batch_size):
        length = run.length - int(run.ragged and number == run.batch_size - 1)
        ids = rng.integers(5, vocab_size, length)
        labels = ids.copy()
        labels[: length - run.length // 2] = IGNORED
        rows.append(Row(ids, labels, [length]))
    return collate(rows, Layout(packed=run.packed, pad_id=0))


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{key}:\s+(\d+)", text)
    assert found is not None, f"/proc/self/status has no {key}"
    return int(found[1]) * 1024


def _import_everything() -> None:
    import bitsandbytes  # noqa: F401

    import llamafarm_ray.models.bottleneck
    import llamafarm_ray.training.compute.attention
    import llamafarm_ray.training.methods
    import llamafarm_ray.training.objectives
    import llamafarm_ray.training.strategies  # noqa: F401


def make_model(folder: Path, config: dict[str, int]) -> Path:
    """A Llama with random weights, in a process of its own too."""
    code = (
        "import sys, json, torch; from transformers import LlamaConfig, LlamaForCausalLM;"
        "LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[2]), max_position_embeddings=2048)).to(torch.bfloat16)"
        ".save_pretrained(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(config)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def measure(run: Run) -> dict[str, Any]:
    """Have a fork of this process train: it has imported everything, and started no thread."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(train(run)))
    child.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        raise SystemExit(f"{run} failed; see above.") from None
    child.join()
    return found


def measure_anew(run: Run, settings: dict[str, str]) -> dict[str, Any]:
    """Have a new process train."""
    command = [sys.executable, __file__, "--child", json.dumps(dataclasses.asdict(run))]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**inherited, **settings}, timeout=600
    )
    if done.returncode:
        raise SystemExit(f"{run.method} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(numbers: dict[str, Any], name: str, run: Run) -> None:
    """The model's part of a run beside its estimate."""
    estimate, found = estimate_memory(ModelShape.of_folder(Path(run.folder)), run.setup()), measure(run)
    model = found["training"] - found["base"]
    seconds = f"{found['seconds']:.1f} s a step, most at: {estimate.moment}"
    _note(numbers, name, estimate.model_bytes, model, seconds)


def compare_process(numbers: dict[str, Any], name: str, run: Run) -> None:
    """A whole new process beside its estimate."""
    estimate, found = estimate_memory(ModelShape.of_folder(Path(run.folder)), run.setup()), measure_anew(run, GIVE_BACK)
    base = f"libraries {found['base'] / 1e6:,.0f} MB, estimated {estimate.framework / 1e6:,.0f}"
    _note(numbers, f"{name}, whole process", estimate.total, found["process"], base)


def _note(numbers: dict[str, Any], name: str, estimated: int, measured: int, more: str) -> None:
    ratio = estimated / measured
    goal = f"between {1 - GOAL:g} and {1 + GOAL:g}"
    numbers[f"{name}, estimated / measured"] = {
        "measured": round(ratio, 4), "goal": goal, "met": abs(ratio - 1) <= GOAL
    }  # fmt: skip
    print(f"{name:<32} {estimated / 1e6:>7,.0f} MB estimated {measured / 1e6:>7,.0f} measured {ratio:>7.3f}   {more}")


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="the smallest model and three methods, to see that it works"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(Run(**json.loads(options.child)))))
        return
    if any(os.environ.get(name) != value for name, value in GIVE_BACK.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **GIVE_BACK})  # noqa: S606 - itself
    _import_everything()
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        tiny = str(make_model(Path(place, "tiny"), TINY))
        folders = {}
        for name, size in list(SIZES.items())[: 1 if options.quick else None]:
            folders[name] = str(make_model(Path(place, name), size.config))
            lora = Run(folders[name], tiny, "lora", size.batch_size, size.length)
            compare_process(numbers, f"lora {name}", lora)
            for method in METHODS[: 3 if options.quick else None]:
                compare(numbers, f"{method} {name}", dataclasses.replace(lora, method=method))
        if not options.quick:
            _variants(numbers, folders["60M"], tiny)
    worst = max(abs(number["measured"] - 1) for number in numbers.values())
    print(f"the farthest of {len(numbers)} is off by {worst:.1%}")
    numbers["farthest off"] = {"measured": round(100 * worst, 2), "goal": f"at most {GOAL:.0%}", "met": worst <= GOAL}
    print(json.dumps({"benchmark": "estimates", "numbers": numbers}))


def _variants(numbers: dict[str, Any], folder: str, tiny: str) -> None:
    """What changes activations: checkpointing, packing, padding, dropout, accumulation; and glibc as it comes."""
    size = SIZES["60M"]
    lora = Run(folder, tiny, "lora", size.batch_size, size.length)
    full = dataclasses.replace(lora, method="full")
    compare(numbers, "lora 60M, checkpointing", dataclasses.replace(lora, checkpointing=True))
    compare(numbers, "full 60M, checkpointing", dataclasses.replace(full, checkpointing=True))
    compare(numbers, "lora 60M, packed", dataclasses.replace(lora, packed=True))
    compare(numbers, "lora 60M, padded", dataclasses.replace(lora, ragged=True))
    compare(numbers, "lora 60M, dropout", dataclasses.replace(lora, dropout=0.1))
    compare(numbers, "full 60M, accumulation of 2", dataclasses.replace(full, accumulation=2))
    plain = measure_anew(lora, {})
    estimate = estimate_memory(ModelShape.of_folder(Path(folder)), lora.setup())
    taken = plain["training"] - plain["base"]
    print(f"    lora 60M, glibc as it comes: {taken / 1e6:,.0f} MB, {taken / estimate.model_bytes:.2f}x the estimate")


if __name__ == "__main__":
    main()
