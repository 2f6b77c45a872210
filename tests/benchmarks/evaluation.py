"""Evaluation numbers: comparisons, the load client against an endpoint of fixed latency, alarms of health in simulated
weeks, and a real model's benchmarks and held-out examples.

Run ``make bench BENCH=evaluation``; with ``ARGS=--quick`` to see that it works, with ``ARGS="--only comparison"`` for a
part. The parts with a model need ``ARGS="--model FOLDER"`` and lm-eval. The last line is one JSON object:
``{"benchmark": "evaluation", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.evaluated.comparison import measure_comparison
from benchmarks.evaluated.report import Report
from fixed_latency import FixedLatency, serving
from simulated_requests import blocks_of, drawn_week, question, request

from llamafarm_ray.config import Journal as JournalSettings
from llamafarm_ray.evaluation.load.arrivals import arrivals
from llamafarm_ray.evaluation.load.client import Endpoint, drive
from llamafarm_ray.evaluation.load.outcomes import percentile, summarize
from llamafarm_ray.evaluation.load.traffic import Session, SessionShape, parse_lengths, synthesize
from llamafarm_ray.serving.health.looks import Plan, examine
from llamafarm_ray.serving.journal.journal import Journal
from llamafarm_ray.serving.journal.topics import topic_signs
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.outcome import End, FinishedRequest
from llamafarm_ray.storage import Location

LATENCY_S = 0.2
STALL = (2.0, 3.0)
CPU_A_REQUEST_S = 2 / 79
"""CPU of two cores for a request of 32 tokens, where vLLM with a 0.5M Llama answered 79 of them a second."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rate: float = 500.0
    seconds: float = 10.0
    weeks: int = 100
    week_requests: int = 20_000
    shifts: int = 20
    simulations: int = 1000
    examples: int = 200
    tasks: tuple[str, ...] = ("mmlu",)


QUICK = Scale(
    rate=50.0,
    seconds=4.0,
    weeks=5,
    week_requests=4000,
    shifts=3,
    simulations=50,
    examples=8,
    tasks=("mmlu_anatomy",),
)


def _serve(endpoint: FixedLatency, pipe: Connection) -> None:
    async def work() -> None:
        async with serving(endpoint) as served:
            pipe.send(served.url)
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(work())


@contextmanager
def in_process(endpoint: FixedLatency) -> Iterator[str]:
    """Serve from a process of its own; gives its URL."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(endpoint, there))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("over")
        process.join(20)


def truth(times: list[float], stall: tuple[float, float]) -> float:
    """Return the 99th percentile that the schedule has: what is due in a stall waits for its end."""
    start, end = (times[0] + one for one in stall)
    latencies = sorted(LATENCY_S + (end - at_s if start <= at_s < end else 0.0) for at_s in times)
    return percentile(latencies, 0.99) or 0.0


def sessions(times: list[float]) -> list[Session]:
    """Return a question for each time."""
    return synthesize(times, lengths=parse_lengths("32/16"), shape=SessionShape(), rng=random.Random(1))


def measure_load(report: Report, scale: Scale) -> None:
    """Compare the measured 99th percentile with the schedule's, without and with a stall; CPU time of the client."""
    times = arrivals("poisson", scale.rate, scale.seconds, random.Random(2))
    for what, stall in (("fixed latency", (0.0, 0.0)), ("a stall of a second", STALL)):
        with in_process(FixedLatency(LATENCY_S, first_s=LATENCY_S / 2, stall=stall)) as url:
            cpu_s = time.process_time()
            outcomes = asyncio.run(drive(Endpoint(url, "stub"), sessions(times)))
            cpu_s = time.process_time() - cpu_s
        summary = summarize(outcomes, num_sessions=len(times))
        measured, expected = percentile(summary.latencies_s, 0.99) or 0.0, truth(times, stall)
        report.at_most(f"p99 at {scale.rate:g}/s off the truth, {what}", abs(measured / expected - 1) * 100, 2, "%")
        report.at_most(f"failures, {what}", summary.num_failed, 0, "")
        print(
            f"  p99 {measured * 1000:.1f} ms, by the schedule {expected * 1000:.1f} ms; client late by "
            f"{summary.client_lag_s * 1000:.2f} ms (p99); CPU {cpu_s / len(times) * 1e6:.0f} us a request"
        )
    ours, theirs = cpu_a_request(ask_ours), cpu_a_request(ask_vllm)
    report.at_most("client CPU a request beside `vllm bench serve`", ours / theirs, 1, "x")


def cpu_a_request(ask: Callable[[str, list[Session]], Any], number: int = 500) -> float:
    """Return seconds of CPU that a streamed request costs, all of them sent at once."""
    with in_process(FixedLatency(0.05, first_s=0.02)) as url:
        asked = sessions([index / 500 for index in range(number)])
        asyncio.run(ask(url, asked[:20]))
        cpu_s = time.process_time()
        asyncio.run(ask(url, asked))
        return (time.process_time() - cpu_s) / number


async def ask_ours(url: str, asked: list[Session]) -> None:
    """Send by our client."""
    await drive(Endpoint(url, "stub"), asked)


async def ask_vllm(url: str, asked: list[Session]) -> None:
    """Send by the request function of `vllm bench serve`, at the same times."""
    import aiohttp
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_openai_chat_completions

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def send(one: Session) -> None:
            await asyncio.sleep(one.at_s)
            prompt = str(one.turns[0].messages[0]["content"])
            request = RequestFuncInput(prompt, f"{url}/chat/completions", len(prompt), 16, "stub")
            await async_request_openai_chat_completions(request, http)

        await asyncio.gather(*map(send, asked))


def measure_health(report: Report, scale: Scale) -> None:
    """Count alarms in weeks without a change, requests until a shift of topic is found, and CPU of a record."""
    rng = np.random.default_rng(1)
    alarms = sum(bool(examine(drawn_week(rng, scale.week_requests)).first) for _ in range(scale.weeks))
    report.at_most(f"weeks of {scale.weeks} with a false alarm", 100 * alarms / scale.weeks, 1, "%")
    found = [requests_to_find(np.random.default_rng(seed), offset=50 * (seed % 5)) for seed in range(scale.shifts)]
    report.at_most(f"requests to find a shift of topic, worst of {scale.shifts}", max(found), 500, "")
    found = [requests_to_find_text(np.random.default_rng(seed)) for seed in range(scale.shifts)]
    report.at_most(f"the same, from our training to our serving guide, of {scale.shifts}", max(found), 500, "")
    record_s = cpu_a_record(rng)
    report.at_most("CPU of a request's record beside serving it", 100 * record_s / CPU_A_REQUEST_S, 2, "%")
    print(f"  {record_s * 1e6:.0f} us a streamed request of 32 tokens")


def requests_to_find(rng: np.random.Generator, offset: int) -> float:
    """Return how many requests on another topic it takes; they begin ``offset`` requests into a window."""
    topics = ["shop"] * (1000 + offset) + ["garden"] * 1000
    drawn = [request(rng, topic=topic) for topic in topics]
    alarms = examine(blocks_of(drawn), Plan(reference_s=600.0)).first
    return min((one.num_later - offset for one in alarms if one.difference.signal.name == "topic"), default=1e9)


def requests_to_find_text(rng: np.random.Generator) -> float:
    """Return the number of sentences on serving that it takes after a thousand on training, drawn from the docs."""
    docs = Path(__file__).parents[2] / "docs"
    subjects = (("training", "objectives", "training-design"), ("serving", "adapters", "rollouts"))
    pages = ("\n\n".join((docs / f"{name}.md").read_text() for name in names) for names in subjects)
    sentences = (re.split(r"(?<=[.!?:])\s+|\n\n|\|", page) for page in pages)
    old, new = ([text for text in page if 40 < len(text.strip()) < 300] for page in sentences)
    texts = [*rng.choice(old, 1000), *rng.choice(new, 1000)]
    drawn = [request(rng, signs=topic_signs(str(text))) for text in texts]
    alarms = examine(blocks_of(drawn), Plan(reference_s=600.0)).first
    return min((one.num_later for one in alarms if one.difference.signal.name == "topic"), default=1e9)


def cpu_a_record(rng: np.random.Generator, number: int = 2000) -> float:
    """Return the seconds of CPU that the journal takes for a request with a streamed answer."""
    journal = Journal(Location("memory://journal"), JournalSettings())
    piece = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": "bot:1.0.0#4edf080823a9"}
    choice = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
    event = b"data: " + json.dumps({**piece, "choices": [choice]}).encode() + b"\n\n"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    body = {"type": "http.response.body", "body": event, "more_body": True}
    bodies = [{"messages": [{"role": "user", "content": question("shop", rng)}]} for _ in range(number)]
    done = FinishedRequest(Target("bot:1.0.0#4edf080823a9", "bot:1.0.0"), End.ANSWERED, 0.5, 0.1, 30, 32, 200)

    async def drop(_message: Any) -> None:
        pass

    async def record(asked: dict[str, Any]) -> None:
        opening = journal.opening(drop, "/v1/chat/completions")
        if opening is not None:
            await opening(start)
            for _ in range(32):
                await opening(body)
        journal.add(done, principal="ann", route="/v1/chat/completions", body=asked, wait_s=0.0, opening=opening)

    async def record_all(asked: list[dict[str, Any]]) -> float:
        cpu_s = time.process_time()
        for one in asked:
            await record(one)
        return (time.process_time() - cpu_s) / len(asked)

    asyncio.run(record_all(bodies[:50]))  # loads the model of languages
    return asyncio.run(record_all(bodies))


def measure_models(report: Report, scale: Scale, part: str, base: Path) -> None:
    """Measure a part that needs a model."""
    from benchmarks.evaluated import models

    if part == "workers":
        models.measure_workers(report, base, scale.tasks)
    elif part == "held-out":
        models.measure_held_out(report, base, models.rows_of_questions(scale.examples))
    else:
        models.measure_lm_eval(report, base, part, scale.tasks)


WITHOUT_MODEL: dict[str, Callable[[Report, Scale], None]] = {
    "comparison": lambda report, scale: measure_comparison(report, scale.simulations),
    "load": measure_load,
    "health": measure_health,
}
WITH_MODEL = ("transformers", "vllm", "workers", "held-out")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests")
    parser.add_argument("--only", nargs="+", choices=[*WITHOUT_MODEL, *WITH_MODEL], help="parts to measure")
    parser.add_argument("--model", type=Path, help="folder of a base model, for the parts that need one")
    asked = parser.parse_args()
    scale = QUICK if asked.quick else Scale()
    report = Report()
    for part in asked.only or [*WITHOUT_MODEL, *(WITH_MODEL if asked.model else ())]:
        if part in WITHOUT_MODEL:
            WITHOUT_MODEL[part](report, scale)
        elif asked.model is None:
            parser.error(f"part {part} needs --model")
        else:
            measure_models(report, scale, part, asked.model)
    print(json.dumps({"benchmark": "evaluation", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
