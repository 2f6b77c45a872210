"""Training's numbers, beside TRL's SFTTrainer on the same model, rows, hyperparameters, seed and order of rows.

Run ``make bench BENCH=training``; with ``ARGS=--quick`` to see that it works. Each measurement is a process of its own,
and those that are compared take turns. The last line is one JSON object:
``{"benchmark": "training", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED, VOCABULARY, BATCH_SIZE = 0, 8000, 8
MARKS = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
NAMES = ["pad_token", "unk_token", "eos_token"]
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        rounds: number of rounds of the parts that take turns.
        rows: of a run whose speed is measured.
        long_rows: of a run whose wall time is measured, from raw rows to the saved adapter.
    """

    rounds: int = 3
    rows: int = 640
    long_rows: int = 3000


QUICK = Scale(rounds=1, rows=64, long_rows=96)


def make_model(folder: Path) -> None:
    """A Llama of 12M parameters with random weights, and a tokenizer of one token a word."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*MARKS, *(f"w{index}" for index in range(VOCABULARY - 5))])}
    tokenizer = Tokenizer(models.WordLevel(words, MARKS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=TEMPLATE, **dict(zip(NAMES, MARKS, strict=False))
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=1024,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(SEED)
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)


def make_rows(base: Path, path: Path, num_rows: int) -> int:
    """Chats of 20 to 150 tokens, in the order in which our first epoch takes them. Returns their tokens."""
    from llamafarm_ray.models.tokenizer import load_tokenizer
    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.tokens.tokenised import row_order

    tokenizer, objective, rng = load_tokenizer(base), find_objective("sft"), random.Random(SEED)
    chats = []
    for _ in range(num_rows):
        size = rng.randint(20, 150) - 6
        asked = rng.randint(size // 4, size // 2)
        words = [rng.randrange(VOCABULARY // 8) for _ in range(asked)]
        # An answer that can be learnt: each word follows from one of the question's.
        answer = [(7 * words[index % asked] + 1) % (VOCABULARY - 5) for index in range(size - asked)]
        turns = (("user", words), ("assistant", answer))
        chats.append([{"role": role, "content": " ".join(f"w{word}" for word in text)} for role, text in turns])
    made = [(objective.tokenise(tokenizer, {"messages": chat}, 1024)[0], chat) for chat in chats]
    made.sort(key=lambda pair: row_order(SEED, 0, pair[0]))
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for _, chat in made), encoding="utf-8")
    return sum(len(row.input_ids) for row, _ in made)


# What a child process does: one run, and a line of JSON about it.


def run_ours(base: Path, rows: Path, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What ``llamafarm models train`` does, on a Ray of its own."""
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import LOCAL, connect
    from llamafarm_ray.workflows.training.train import TrainingRun

    config = parse_config(_config(settings) | {"base_model": str(base), "dataset": {"path": str(rows)}})
    run = TrainingRun.prepare(config, open_registry(str(output.parent / "home")), output=output)
    with connect(LOCAL, meanwhile="llamafarm_ray.training.trainer"):
        result = run.run().result
    return {"seconds": result.seconds, "num_tokens": result.num_tokens, "num_steps": result.num_steps}


def run_without_ray(base: Path, rows: Path, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The same loop in this process, and nothing else."""
    import numpy as np
    import torch

    torch.set_num_threads(settings.get("threads", torch.get_num_threads()))
    from llamafarm_ray.config import parse_config
    from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
    from llamafarm_ray.training.batch_plan import BatchPlan
    from llamafarm_ray.training.batches import Layout, windows
    from llamafarm_ray.training.checkpoints import RunState
    from llamafarm_ray.training.compute.attention import use_packed_attention
    from llamafarm_ray.training.decided import DecidedTraining
    from llamafarm_ray.training.loop import train_steps
    from llamafarm_ray.training.methods import Precision, find_method
    from llamafarm_ray.training.objectives import find_objective
    from llamafarm_ray.training.rows import Row
    from llamafarm_ray.training.schedule import Schedule
    from llamafarm_ray.training.strategies import Place, find_strategy

    quiet_libraries()
    config = parse_config(_config(settings)).fine_tuning
    training = DecidedTraining.model_validate(config.training.model_dump(exclude_unset=True))
    tokenizer, objective = load_tokenizer(base), find_objective("sft")
    chats = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    made = [objective.tokenise(tokenizer, chat, 1024)[0] for chat in chats]
    table = [Row(np.array(row.input_ids), np.array(row.labels), np.array(row.parts)) for row in made]
    torch.manual_seed(SEED)
    strategy = find_strategy("single")(Place(0, 1, torch.device("cpu")), Precision("fp32"), training)
    method = find_method("lora")(config.parameters)
    model = method.load(base, precision=strategy.precision, device=strategy.place.device)
    use_packed_attention(model)
    module = method.wrap(model, base_model=base)
    strategy.prepare(module)
    plan = BatchPlan(len(table), BATCH_SIZE, BATCH_SIZE)
    state = RunState()
    steps = windows(
        plan,
        lambda _, skip: iter(table[skip:]),
        rank=0,
        num_workers=1,
        first_step=0,
        num_steps=plan.num_windows,
        layout=Layout(packed=True, pad_id=tokenizer.pad_token_id),
    )
    train_steps(
        strategy,
        objective,
        steps,
        schedule=Schedule.of(training, plan.num_windows),
        state=state,
        seed=SEED,
        after_step=lambda *_: False,
    )
    output.mkdir(parents=True)
    method.save(module, strategy.weights(), output)
    return {"seconds": state.seconds, "num_tokens": state.num_tokens, "num_steps": state.step}


def _config(settings: dict[str, Any]) -> dict[str, Any]:
    training = {"epochs": 1.0, "batch_size": BATCH_SIZE, "learning_rate": 5e-3, "log_every_s": 1.0, "max_length": 1024}
    return {
        "name": "benchmark",
        "seed": SEED,
        "fine_tuning": {
            "method": "lora",
            "parameters": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "training": training | settings.get("training", {}),
            "distributed": settings.get("distributed", {}),
        },
    }


def run_trl(base: Path, rows: Path, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """TRL's SFTTrainer on prompts and completions, in the order of the file."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    dataset = load_dataset("json", data_files=str(rows), split="train", cache_dir=str(output / "cache"))
    dataset = dataset.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns=["messages"]
    )
    arguments = SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=1,
        learning_rate=5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=1024,
        packing=settings["packing"],
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=SEED,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=arguments,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora,
    )
    done = trainer.train()
    trainer.save_model(str(output))
    return {"seconds": done.metrics["train_runtime"], "num_steps": done.global_step}


CHILDREN = {"ours": run_ours, "plain": run_without_ray, "trl": run_trl}


def held_out_loss(base: Path, adapter: Path, rows: Path) -> float:
    """The mean loss per answer token of an adapter in plain peft, on rows that were not trained."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from llamafarm_ray.models.tokenizer import load_tokenizer
    from llamafarm_ray.training.objectives import find_objective

    tokenizer, objective = load_tokenizer(base), find_objective("sft")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    loss = count = 0.0
    for line in rows.read_text(encoding="utf-8").splitlines():
        (row,) = objective.tokenise(tokenizer, json.loads(line), 1024)
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        trained = int((labels != -100).sum())
        with torch.no_grad():
            loss += float(model(input_ids=ids, labels=labels).loss) * trained
        count += trained
    return loss / count


# The parent: what runs when, and what it says.


def child(kind: str, base: Path, rows: Path, output: Path, **settings: Any) -> dict[str, Any]:
    """Run one measurement in a process of its own. ``wall_s`` is from its start to the saved adapter."""
    command = [sys.executable, __file__, "--child", kind, str(base), str(rows), str(output), json.dumps(settings)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"TQDM_DISABLE": "1"})
    if done.returncode:
        raise SystemExit(f"{kind} {settings} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    wall_s = time.perf_counter() - started
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"wall_s": wall_s}


def measure(scale: Scale, folder: Path) -> dict[str, dict[str, Any]]:
    """Everything, as ``{name: {measured, goal, met}}``."""
    base = folder / "base"
    make_model(base)
    tokens = {name: make_rows(base, folder / f"{name}.jsonl", count) for name, count in _sizes(scale).items()}
    short, long = folder / "short.jsonl", folder / "long.jsonl"
    speeds: dict[str, list[float]] = {}
    adapters: dict[str, Path] = {}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "ours": ("ours", {}),
        "TRL padded": ("trl", {"packing": False}),
        "TRL packed": ("trl", {"packing": True}),
        "one core": ("ours", {"distributed": {"workers": 1, "cpus_per_worker": 1}}),
        "two workers": (
            "ours",
            {"distributed": {"workers": 2, "cpus_per_worker": 1}, "training": {"batch_size": BATCH_SIZE // 2}},
        ),
        "no Ray": ("plain", {}),
        "no Ray, one core": ("plain", {"threads": 1}),
    }
    for turn in range(scale.rounds):
        for name, (kind, settings) in kinds.items():
            output = folder / f"{name}-{turn}".replace(" ", "-")
            found = child(kind, base, short, output, **settings)
            speeds.setdefault(name, []).append(tokens["short"] / found["seconds"])
            adapters[name] = output
            print(f"  {name}: {speeds[name][-1]:,.0f} tokens/s, {found['wall_s']:.1f} s in all", flush=True)
    speed = {name: statistics.median(found) for name, found in speeds.items()}
    print("  medians: " + ", ".join(f"{name} {found:,.0f}" for name, found in speed.items()), flush=True)
    loss = {name: held_out_loss(base, adapters[name], folder / "held_out.jsonl") for name in ("ours", "TRL padded")}
    walls = {
        name: child(kinds[name][0], base, long, folder / f"long-{name}".replace(" ", "-"), **kinds[name][1])
        for name in ("ours", "TRL padded", "no Ray")
    }
    for name, found in walls.items():
        print(f"  {name}: {scale.long_rows} rows in {found['wall_s']:.1f} s in all", flush=True)
    # What Ray adds: once, and in every step. Its processes need some of a core, which training on all of them feels.
    once = (walls["ours"]["wall_s"] - walls["ours"]["seconds"]) - (
        walls["no Ray"]["wall_s"] - walls["no Ray"]["seconds"]
    )
    beside = slower(speeds, "no Ray, one core", "one core")
    on_all = slower(speeds, "no Ray", "ours")
    print(f"  Ray: {once:.1f} s once, steps {beside:+.2%} with a core left to it, {on_all:+.2%} with none", flush=True)
    trl = max(speed["TRL padded"], speed["TRL packed"])
    return {
        "tokens/s, ours to the better of TRL's": at_least(speed["ours"] / trl, 1.3),
        "tokens/s, ours to TRL's packed": at_least(speed["ours"] / speed["TRL packed"], 2.0),
        "held-out loss, distance to TRL's on the same order": at_most(abs(loss["ours"] / loss["TRL padded"] - 1), 0.01),
        "wall time from JSONL to adapter, TRL's to ours": at_least(
            walls["TRL padded"]["wall_s"] / walls["ours"]["wall_s"], 1.3
        ),
        "Ray's share of a run of 10 minutes, a core left to it": at_most(share(once, beside), 0.03),
        "Ray's share of a run of 10 minutes, training on all cores": at_most(share(once, on_all), 0.03),
        "speed of 2 workers of a core to 1": at_least(speed["two workers"] / speed["one core"], 1.6),
    }


def slower(speeds: dict[str, list[float]], alone: str, with_ray: str) -> float:
    """By which part steps take longer with Ray: the median over turns, each pair in the same minutes."""
    return statistics.median(a / b - 1 for a, b in zip(speeds[alone], speeds[with_ray], strict=True))


def share(once_s: float, each_step: float) -> float:
    """Of a run of 10 minutes."""
    return max(0.0, once_s) / 600 + max(0.0, each_step)


def _sizes(scale: Scale) -> dict[str, int]:
    return {"short": scale.rows, "long": scale.long_rows, "held_out": 100}


def at_least(measured: float, goal: float) -> dict[str, Any]:
    """A number that shall be large."""
    return {"measured": round(measured, 4), "goal": f">= {goal}", "met": measured >= goal}


def at_most(measured: float, goal: float) -> dict[str, Any]:
    """A number that shall be small."""
    return {"measured": round(measured, 4), "goal": f"<= {goal}", "met": measured <= goal}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--rounds", type=int, default=Scale.rounds, help="how often all take turns")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, base, rows, output, settings = arguments.child
        found = CHILDREN[kind](Path(base), Path(rows), Path(output), json.loads(settings))
        print(json.dumps(found), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        numbers = measure(QUICK if arguments.quick else Scale(arguments.rounds), Path(folder))
    for name, number in numbers.items():
        print(f"{'met ' if number['met'] else 'MISS'} {name}: {number['measured']} (goal {number['goal']})")
    print(json.dumps({"benchmark": "training", "numbers": numbers}))


if __name__ == "__main__":
    main()
