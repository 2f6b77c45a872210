"""Simulate production traffic against a deployment, and find the rate that it sustains."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from llamafarm_ray.errors import DeploymentError, InputError
from llamafarm_ray.evaluation.load.client import Endpoint, drive
from llamafarm_ray.evaluation.load.outcomes import Outcome, Summary, summarize
from llamafarm_ray.evaluation.load.plan import Replay, Traffic
from llamafarm_ray.evaluation.load.result import Satisfaction, SimulationResult
from llamafarm_ray.evaluation.load.search import Limits, Probe, find_capacity
from llamafarm_ray.evaluation.load.targets import Target
from llamafarm_ray.registry import RegistryApi, open_registry
from llamafarm_ray.serving.rollouts.ratings import ratings_since
from llamafarm_ray.workflows.deployments.chat import ask
from llamafarm_ray.workflows.deployments.deployed import deployment_of

__all__ = ["endpoint_of", "satisfaction", "search", "simulate"]

_FEEDBACK_DAYS = 30

Progress = Callable[[str, float], None]
"""Called with a stage and the fraction of it that is done."""


def endpoint_of(
    home: str | None, url: str | None, model: str | None, *, timeout_s: float, is_streamed: bool
) -> Endpoint:
    """Return the endpoint to ask: the one at a URL, or the recorded deployment.

    One short question is asked first, so that a wrong address, key or model is an error and no simulation of failures.

    Raises:
        NotFoundError: nothing is deployed, or the endpoint does not know the model.
        AccessDeniedError: it asks for another key.
        InputError: nothing answers there, or it needs a model's name.
        DeploymentError: it fails.
    """
    # The registry's token goes to its own deployment only.
    key = os.environ.get("OPENAI_API_KEY" if url else "LLAMAFARM_TOKEN")
    if url is None:
        deployment = deployment_of(open_registry(home))
        url, model = deployment.url, model or deployment.base_model
    elif model is None:
        raise InputError(f"Nothing says which model of {url} to ask.", hint="Name it with --model.")
    ask(url, model, "Hello", max_tokens=1, key=key)
    return Endpoint(url, model, key, is_streamed=is_streamed, timeout_s=timeout_s)


def simulate(
    endpoint: Endpoint,
    plan: Traffic | Replay,
    *,
    registry: RegistryApi | None = None,
    on_progress: Progress | None = None,
) -> SimulationResult:
    """Send the traffic of a plan and return its figures.

    Args:
        registry: registry with users' ratings of the version.
        on_progress: called in this thread.

    Raises:
        InputError: the plan is unusable, or has no request.
    """
    summary = _send(endpoint, plan, on_progress, "simulating")
    rated = satisfaction(registry, summary) if registry is not None else None
    answering = _answering(summary, endpoint)
    return SimulationResult(answering, endpoint.url, plan.to_dict(), summary, None, rated, plan.digest)


def search(
    endpoint: Endpoint,
    plan: Traffic,
    targets: Sequence[Target],
    limits: Limits,
    *,
    registry: RegistryApi | None = None,
    on_progress: Progress | None = None,
    on_probe: Callable[[Probe], None] | None = None,
) -> SimulationResult:
    """Find the highest rate at which the objectives hold, beginning with the plan's rate.

    A probe ends early once so many requests missed an objective that the others can't make up for it.

    Raises:
        InputError: the plan is unusable.
    """
    summaries: dict[float, Summary] = {}

    def probe(rate: float, duration_s: float) -> Summary:
        traffic = replace(plan, rate=rate, duration_s=duration_s)
        summaries[rate] = _send(endpoint, traffic, on_progress, f"{rate:.3g}/s", targets)
        return summaries[rate]

    capacity = find_capacity(probe, targets, start_rate=plan.rate, limits=limits, on_probe=on_probe)
    summary = summaries[capacity.highest_rate] if capacity.highest_rate is not None else None
    rated = satisfaction(registry, summary) if registry is not None and summary is not None else None
    described = {**plan.to_dict(), "targets": [target.spelling for target in targets]}
    return SimulationResult(
        _answering(summary, endpoint) if summary else endpoint.model,
        endpoint.url,
        described,
        summary,
        capacity,
        rated,
        "" if capacity.highest_rate is None else replace(plan, rate=capacity.highest_rate).digest,
    )


def satisfaction(registry: RegistryApi, summary: Summary) -> Satisfaction | None:
    """Return users' ratings in the last 30 days of the versions that answered; None where there are none.

    Ratings are kept as numbers from 0 to 1, and given here on the usual scale from 1 to 5.
    """
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=_FEEDBACK_DAYS)
    versions = {name.partition("#")[0] for name in summary.models if ":" in name}
    ratings = ratings_since(registry.home, versions, since)
    return Satisfaction(1 + 4 * sum(ratings) / len(ratings), len(ratings)) if ratings else None


def _send(
    endpoint: Endpoint,
    plan: Traffic | Replay,
    on_progress: Progress | None,
    stage: str,
    targets: Sequence[Target] = (),
) -> Summary:
    sessions = plan.sessions()
    if not sessions:
        raise InputError("The simulation has no request.", hint="Raise --rate or --duration.")
    num_requests = sum(len(session.turns) for session in sessions)

    def progress(over: int, all_: int) -> None:
        if on_progress is not None:
            on_progress(stage, over / all_)

    stop = _Misses(targets, num_requests) if targets else None
    outcomes = asyncio.run(drive(endpoint, sessions, on_progress=progress, stop=stop))
    return summarize(outcomes, num_sessions=len(sessions))


class _Misses:
    """Counts requests that miss an objective; True once it can't be kept any more."""

    def __init__(self, targets: Sequence[Target], num_requests: int) -> None:
        self._left = [(target, target.allowed_share * num_requests) for target in targets]
        self._missed: Counter[Target] = Counter()

    def __call__(self, outcome: Outcome) -> bool:
        self._missed.update(target for target, _ in self._left if target.is_broken_by(outcome))
        return any(self._missed[target] > allowed + 1 for target, allowed in self._left)


def _answering(summary: Summary, endpoint: Endpoint) -> str:
    """Return the version that gave most answers; the name that was asked where none is named."""
    if not summary.latencies_s and summary.num_requests:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in summary.failures.items())
        raise DeploymentError(
            f"None of {summary.num_requests} requests to {endpoint.url} was answered ({kinds}).",
            hint="Ask it once with `llamafarm models chat`.",
        )
    return max(summary.models, key=lambda name: summary.models[name], default=endpoint.model)
