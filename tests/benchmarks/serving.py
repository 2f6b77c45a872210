"""Serving's numbers, beside bare vLLM and stock Ray Serve LLM with the same model, engine arguments and requests.

Run ``make bench BENCH=serving``; with ``ARGS=--quick`` to see that it works, with ``ARGS="--parts zipf"`` for some
of it. The servers take turns every few seconds; those that are not measured are stopped meanwhile (SIGSTOP), so that
they take nothing of the machine. Requests come from a process of its own (tests/load_generator.py), the same for all.
The last line is one JSON object:
``{"benchmark": "serving", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from adapters import make_adapter
from load_generator import Answer, Job, LoadGenerator, Measured, Source
from serving_stacks import BASE, Bare, Ours, Server, Stock, make_base

from llamafarm_ray.registry import open_registry
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.workflows.versions.register import Registration, register

PARTS = ("start", "throughput", "zipf", "tenants")
CLIENTS = (1, 8, 16, 32)
MIXED = [f"mixed-{number}" for number in range(4)]
SETTLE_S = 1.5
"""After a server stood still: its timers are all due then, and Serve's controller catches up."""
ZIPF_EXPONENT = 1.0
ZIPF_CLIENTS = (4, 8, 16)
"""As many as there are slots, and more: then adapters wait for each other, and batches are smaller."""
RUNNING_REQUESTS = 8
"""For the part with tenants: the least number that keeps the engine busy (docs/keys-and-limits.md)."""
CALM = ["calm-0", "calm-1", "calm-2"]
CALM_LOAD = 0.12
"""Of what the engine can do, by each of the three that do not flood."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        rounds: number of rounds of the parts that take turns.
        seconds: of a turn.
        adapters: number of adapters that are registered for the Zipf traffic.
        parts: the parts to measure.
    """

    rounds: int = 3
    seconds: float = 3.0
    adapters: int = 1000
    parts: tuple[str, ...] = PARTS


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    cpu_shares: list[float] = field(default_factory=list)

    def at_least(self, name: str, measured: float, goal: float) -> None:
        self._add(name, measured, f">= {goal:g}", met=measured >= goal)

    def at_most(self, name: str, measured: float, goal: float) -> None:
        self._add(name, measured, f"<= {goal:g}", met=measured <= goal)

    def _add(self, name: str, measured: float, goal: str, *, met: bool) -> None:
        self.numbers[name] = {"measured": round(measured, 4), "goal": goal, "met": met}
        print(f"{'met ' if met else 'MISS'} {name}: {measured:.3f} (goal {goal})", flush=True)

    def note(self, text: str) -> None:
        print(f"     {text}", flush=True)


class Bench:
    """The servers, and what sends requests to them."""

    def __init__(self, scale: Scale, folder: Path, report: Report) -> None:
        self.scale = scale
        self.folder = folder
        self.report = report
        self.base = make_base(folder)
        self.adapters = {name: make_adapter(self.base, folder / name, seed=number) for number, name in enumerate(MIXED)}
        self.registry = open_registry(str(folder / "home"))
        for name, adapter in self.adapters.items():
            register(self.registry, Registration(adapter, name=name, alias="production"))
        self.ours = Ours(folder, self.base, home=folder / "home", adapters=[f"{name}@production" for name in MIXED])
        self.bare = Bare(folder, self.base, adapters=self.adapters)
        self.stock = Stock(folder, self.base)
        self.generator = LoadGenerator()
        self._running: list[Server] = []

    def run(self, server: Server, sources: list[Source], *, seconds: float | None = None, **job: Any) -> Measured:
        """Send requests to a server while the others stand still."""
        for other in self._running:
            if other is not server:
                other.pause()
        if server.resume():
            time.sleep(SETTLE_S)
        measured = self.generator.run(Job(server.url, sources, seconds or self.scale.seconds, **job))
        self.report.cpu_shares.append(measured.cpu_share)
        return measured

    def start(self, server: Server) -> float:
        """Start a server while the others stand still; seconds until it answers."""
        for other in self._running:
            other.pause()
        seconds = server.start()
        self._running.append(server)
        return seconds

    def stop(self, server: Server) -> None:
        """End a server, if it runs."""
        if server in self._running:
            self._running.remove(server)
            server.stop()

    def close(self) -> None:
        """End everything."""
        for server in list(self._running):
            self.stop(server)
        self.generator.close()


def start(bench: Bench) -> None:
    """From a command to the first answer, the adapters loaded, nothing else running."""
    seconds: dict[str, list[float]] = {}
    for _ in range(bench.scale.rounds):
        for server in (bench.bare, bench.ours):
            seconds.setdefault(type(server).__name__, []).append(bench.start(server))
            bench.stop(server)
    for name, found in seconds.items():
        bench.report.note(f"{name} answers after " + ", ".join(f"{one:.1f}" for one in found) + " s")
    ratio = statistics.median(a / b for a, b in zip(seconds["Ours"], seconds["Bare"], strict=True))
    bench.report.at_most("ready to serve, ours to bare vLLM", ratio, 1.15)


def throughput(bench: Bench) -> None:
    """Tokens a second and time to the first one, of all three in turn."""
    for server in (bench.bare, bench.ours, bench.stock):
        bench.start(server)
    found: dict[tuple[str, int, bool, str], list[Measured]] = {}
    for turn in range(-1, bench.scale.rounds):  # the first round warms all of them up and does not count
        for kind, models in (("base", [BASE]), ("mixed", MIXED)):
            for is_streamed in (False, True):
                for clients in CLIENTS:
                    for server in (bench.bare, bench.ours, bench.stock):
                        if server is bench.stock and kind == "mixed":
                            continue
                        measured = bench.run(
                            server,
                            [Source(models=models, clients=clients)],
                            is_streamed=is_streamed,
                            seed=1000 * (turn + 1) + clients,
                            **({"seconds": 1.0} if turn < 0 else {}),
                        )
                        if turn >= 0:
                            key = (kind, clients, is_streamed, type(server).__name__)
                            found.setdefault(key, []).append(measured)
    bench.stop(bench.stock)
    _compare(bench.report, found)


def _compare(report: Report, found: dict[tuple[str, int, bool, str], list[Measured]]) -> None:
    num_errors = sum(len(measured.errors) for rounds in found.values() for measured in rounds)
    report.at_most("failed requests", num_errors, 0)
    for rounds in found.values():
        for measured in rounds:
            for answer in measured.errors[:1]:
                report.note(f"failed: {answer}")
    for kind, clients, is_streamed, name in found:
        if name != "Bare":
            continue
        how = f"{kind}, c={clients}, {'streamed' if is_streamed else 'whole'}"
        sides = {
            side: found[kind, clients, is_streamed, side]
            for side in ("Bare", "Ours", "Stock")
            if (kind, clients, is_streamed, side) in found
        }
        speeds = {side: [one.tokens_per_second() for one in rounds] for side, rounds in sides.items()}
        report.note(how + ": " + ", ".join(f"{side} {statistics.median(s):.0f} tokens/s" for side, s in speeds.items()))
        for side in ("Ours", "Stock"):
            if side in speeds:
                ratio = statistics.median(a / b for a, b in zip(speeds[side], speeds["Bare"], strict=True))
                if side == "Ours":
                    report.at_least(f"throughput, {how}, ours to bare", ratio, 0.95)
                else:
                    report.note(f"throughput, {how}, stock to bare: {ratio:.3f}")
        if is_streamed:
            first_ms = {side: [_first_ms(one) for one in rounds] for side, rounds in sides.items()}
            over = statistics.median(a - b for a, b in zip(first_ms["Ours"], first_ms["Bare"], strict=True))
            report.note(", ".join(f"{side} {statistics.median(f):.1f} ms" for side, f in first_ms.items()))
            report.at_most(f"p50 time to first token over bare in ms, {how}", over, 10)


def zipf(bench: Bench) -> None:
    """Many adapters, few slots in the engine: what is popular is asked for often, most of the others once."""
    names = [f"zipf-{number}" for number in range(bench.scale.adapters)]
    _register_many(bench, names)
    _run_ours(bench)
    weights = [1 / rank**ZIPF_EXPONENT for rank in range(1, len(names) + 1)]
    different: set[str] = set()
    errors: list[Answer] = []
    ratios: dict[int, float] = {}
    for clients in ZIPF_CLIENTS:
        one, many = Source(models=MIXED[:1], clients=clients), Source(models=names, weights=weights, clients=clients)
        speeds: list[tuple[float, float]] = []
        for turn in range(bench.scale.rounds):
            of_one = bench.run(bench.ours, [one], seed=turn)
            of_many = bench.run(bench.ours, [many], seconds=3 * bench.scale.seconds, seed=turn)
            speeds.append((of_many.tokens_per_second(), of_one.tokens_per_second()))
            different |= {answer.model for answer in of_many.answers}
            errors += of_many.errors
        bench.report.note(f"c={clients}: " + ", ".join(f"{a:.0f} and {b:.0f} tokens/s of one" for a, b in speeds))
        ratios[clients] = statistics.median(a / b for a, b in speeds)
    for answer in errors[:3]:
        bench.report.note(f"failed: {answer}")
    how = f"{len(names)} adapters (Zipf, s={ZIPF_EXPONENT:g}; {len(different)} were asked for) in 4 slots"
    bench.report.at_most(f"failed requests, {how}", len(errors), 0)
    for clients, ratio in ratios.items():
        bench.report.at_least(f"throughput to that of one adapter, c={clients}, {how}", ratio, 0.8)


def _register_many(bench: Bench, names: list[str]) -> None:
    """Adapters of the same shape and other weights, each a model of its own."""
    from safetensors.numpy import load_file, save_file

    template = bench.adapters[MIXED[0]]
    weights, rng = load_file(template / "adapter_model.safetensors"), np.random.default_rng(0)
    folder = bench.folder / "one-of-many"
    shutil.copytree(template, folder)
    for name in names:
        noise = {key: value + rng.normal(0, 0.01, value.shape).astype(value.dtype) for key, value in weights.items()}
        save_file(noise, folder / "adapter_model.safetensors", {"format": "pt"})
        register(bench.registry, Registration(folder, name=name, alias="production"))


def tenants(bench: Bench) -> None:
    """Four keys; one of them sends ten times as much as each of the others."""
    bench.stop(bench.ours)
    bench.ours.running_requests = RUNNING_REQUESTS
    _run_ours(bench)
    keys = {"admin": bench.registry.add_principal("admin", {"*": Role.ADMIN})}
    registry = open_registry(str(bench.folder / "home"), token=keys["admin"])
    keys |= {name: registry.add_principal(name, {"*": Role.VIEWER}) for name in ("flood", *CALM)}
    capacity = bench.run(bench.ours, [Source(models=[BASE], clients=32, key=keys["admin"])]).per_second()
    rate = CALM_LOAD * capacity
    calm = [Source(name, [BASE], rate=rate, key=keys[name]) for name in CALM]
    flood = Source("flood", [BASE], rate=10 * rate, key=keys["flood"])
    seconds = 3 * bench.scale.seconds
    alone: list[float] = []
    flooded: list[float] = []
    num_failed = 0
    for turn in range(bench.scale.rounds):
        for sources, latencies in ((calm, alone), ([*calm, flood], flooded)):
            measured = bench.run(bench.ours, sources, seconds=seconds, seed=turn)
            num_failed += sum(answer.source != "flood" for answer in measured.errors)
            latencies += [one.done_s - one.sent_s for name in CALM for one in measured.counted(name)]
    before, after = (float(np.quantile(latencies, 0.99)) for latencies in (alone, flooded))
    bench.report.note(
        f"three keys at {rate:.1f}/s each, one at {10 * rate:.1f}/s, of {capacity:.1f}/s that the engine does: "
        f"p99 of the three {before:.3f} s alone ({len(alone)} requests), {after:.3f} s flooded ({len(flooded)})"
    )
    bench.report.at_most("failed requests of those beside a flood", num_failed, 0)
    bench.report.at_most("p99 beside a key that floods at 10x, to that without it", after / before, 3)
    clients = [Source(name, [BASE], clients=16, key=keys[name]) for name in CALM]
    clients.append(Source("flood", [BASE], clients=160, key=keys["flood"]))
    fairness = []
    for turn in range(bench.scale.rounds):
        measured = bench.run(bench.ours, clients, seconds=seconds, warm_up_s=2.0, seed=turn)
        served = [measured.per_second(source.name) for source in clients]
        bench.report.note("served a second: " + ", ".join(f"{one:.1f}" for one in served))
        fairness.append(sum(served) ** 2 / (len(served) * sum(one**2 for one in served)))
    name = "Jain's index of what four keys get that all want more than their share, one with 10x the clients"
    bench.report.at_least(name, statistics.median(fairness), 0.9)


def _run_ours(bench: Bench) -> None:
    """Our server, started anew so that it knows nothing of what was before."""
    bench.stop(bench.ours)
    bench.stop(bench.bare)
    bench.start(bench.ours)


def _first_ms(measured: Measured) -> float:
    return 1000 * statistics.median(answer.first_s - answer.sent_s for answer in measured.counted())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--rounds", type=int, default=Scale.rounds, help="how often all take turns")
    parser.add_argument("--seconds", type=float, default=Scale.seconds, help="of a turn")
    parser.add_argument("--adapters", type=int, default=Scale.adapters, help="registered for the Zipf traffic")
    parser.add_argument("--parts", default=",".join(PARTS), help="what is measured, of %(default)s")
    asked = parser.parse_args()
    scale = Scale(asked.rounds, asked.seconds, asked.adapters, tuple(asked.parts.split(",")))
    if asked.quick:
        scale = Scale(1, 1.0, 50, scale.parts)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        bench = Bench(scale, Path(folder), report)
        stack.callback(bench.close)
        for part in PARTS:
            if part in scale.parts:
                {"start": start, "throughput": throughput, "zipf": zipf, "tenants": tenants}[part](bench)
    share = statistics.mean(report.cpu_shares) if report.cpu_shares else 0.0
    report.note(f"the load generator took {share:.0%} of a core, {max(report.cpu_shares, default=0):.0%} at most")
    print(json.dumps({"benchmark": "serving", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
