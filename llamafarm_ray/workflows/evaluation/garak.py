"""garak's probes of a deployed model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from llamafarm_ray.config import Config
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.engines.client import EndpointClient
from llamafarm_ray.evaluation.result import EvaluationResult, now
from llamafarm_ray.evaluation.risk.garak.process import GarakRun, garak_version
from llamafarm_ray.evaluation.risk.garak.scores import answered_probes, garak_scores
from llamafarm_ray.workflows.evaluation.backend import endpoint_of
from llamafarm_ray.workflows.evaluation.model import EvaluatedModel

__all__ = ["GarakPlan"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class GarakPlan:
    """Probes of garak that can be asked.

    Args:
        run: the process to start.
    """

    run: GarakRun

    @classmethod
    def of(cls, config: Config, model: EvaluatedModel) -> Self | None:
        """Return the plan of ``evaluation.garak``; None if no Python with garak is named.

        Raises:
            InputError: there is no endpoint to ask.
            UnsupportedError: garak is not installed for that Python.
        """
        settings = config.evaluation.garak
        if settings.python is None:
            return None
        if config.evaluation.endpoint.base_url is None:
            raise InputError(
                "garak asks a running endpoint, and none is set.",
                hint="Deploy the model, and give its address up to /v1 with --endpoint.",
            )
        python = Path(settings.python).expanduser().absolute()
        garak_version(python)
        return cls(
            GarakRun(
                python=python,
                endpoint=endpoint_of(config.evaluation, model),
                probes=settings.probes,
                max_prompts=settings.max_prompts,
                generations=settings.generations,
                temperature=settings.temperature,
                max_new_tokens=settings.max_new_tokens,
                seed=config.seed,
                time_limit_s=settings.time_limit_s,
            )
        )

    def measure(self, *, model_id: str, digests: Mapping[str, str], on_progress: Progress | None) -> EvaluationResult:
        """Ask the probes.

        Before and after them the endpoint answers one question, so that another version there is noticed.

        Args:
            digests: digests of weights and code.
            on_progress: called with a stage and the fraction of it that is done.

        Raises:
            UserError: the endpoint refuses the key or the model, or answers as another version.
            InfrastructureError: the endpoint fails, or garak finished no probe.
        """
        client = EndpointClient(self.run.endpoint)
        hello = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        client.choice("chat/completions", hello)
        report, reason = self.run.run(on_progress or (lambda _what, _done: None))
        client.choice("chat/completions", hello)
        scores = garak_scores(report, self.run.probes, reason, self.run.settings)
        known = {**digests, "template": "", "backend": "endpoint"}
        risk = {name: replace(one, digests={**known, **(one.digests or {})}) for name, one in scores.items()}
        return EvaluationResult(model_id, now(), {}, risk=risk, answered=answered_probes(report))
