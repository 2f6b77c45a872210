"""Risk tests of a model, with probes from its questions and its training data."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llamafarm_ray.config import Config
from llamafarm_ray.data.augmentation.with_passages import ask_with_passages, ask_with_texts
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.question_rows import read_rows
from llamafarm_ray.evaluation.rag.exam import GOLD, RETRIEVED
from llamafarm_ray.evaluation.remote import run_on_ray
from llamafarm_ray.evaluation.result import BenchmarkScores, EvaluationResult, now
from llamafarm_ray.evaluation.risk.conduct import jailbreak_test, over_refusal_test
from llamafarm_ray.evaluation.risk.fairness import fairness_test
from llamafarm_ray.evaluation.risk.injection import injection_test
from llamafarm_ray.evaluation.risk.items import READING_SET, ReadingItem, reading_set
from llamafarm_ray.evaluation.risk.measured import RiskTest
from llamafarm_ray.evaluation.risk.memorization import Secret, TrainedAnswer, memorization_test
from llamafarm_ray.evaluation.risk.robustness import robustness_test
from llamafarm_ray.text.pii.find import find_pii
from llamafarm_ray.workflows.evaluation.questions import Exam, sentences_by_vectors
from llamafarm_ray.workflows.versions.training_data import TrainingData

__all__ = ["RiskPlan", "plan_risks"]

_MOST_ITEMS = 50
_MOST_ANSWERS = 100
_MOST_SEARCHED = 2_000
_MOST_SECRETS = 50
_CANARY = 'A canary is {"prompt": "...", "answer": "... 281265017", "secret": "281265017"}.'

Progress = Callable[[str, float], None]
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class RiskPlan:
    """Risk tests that are ready to be asked.

    Args:
        unmeasured: reasons why others can't be made, by their names.
    """

    tests: tuple[RiskTest, ...]
    unmeasured: Mapping[str, str]

    def measure(
        self,
        model: MeasuredModel,
        rival: MeasuredModel | None,
        *,
        model_id: str,
        digests: Mapping[str, str],
        on_progress: Progress | None = None,
    ) -> EvaluationResult:
        """Ask a model, and its base without the adapter or a rival. Needs a connected Ray.

        Args:
            rival: the model to compare with; None: the base without the adapter.
            digests: further ones, of weights and code.
            on_progress: called with a stage and the fraction of it that is done.

        Raises:
            UserError: a model is unusable.
            ClusterError: Ray is not running, or the task was lost.
        """
        result = EvaluationResult(model_id, now(), {})
        if self.tests:
            settings = {"model": model, "rival": rival, "model_id": model_id, "tests": self.tests}
            result = run_on_ray("llamafarm_ray.evaluation.risk.run:risk_settings", settings, on_progress)
        measured = {
            name: replace(scores, digests={**digests, **(scores.digests or {})}) for name, scores in result.risk.items()
        }
        missing = {name: BenchmarkScores({}, num_examples=0, reason=reason) for name, reason in self.unmeasured.items()}
        return replace(result, risk=measured | missing)


def plan_risks(config: Config, exam: Exam | None, trained: TrainingData) -> RiskPlan:
    """Return the tests of ``evaluation.risk``.

    Questions are those of the exam, where there is one, else a set of this package's own.

    Args:
        config: ``evaluation`` says which risks; ``seed`` chooses samples.

    Raises:
        InputError: the file of canaries is unusable.
    """
    chosen, seed = config.evaluation.risk, config.seed
    items, sample = reading_set(), f"{READING_SET} ({len(reading_set())} questions)"
    if exam is not None:
        items, sample = _items(exam, Path(config.evaluation.questions or "held-out examples").name, seed)
    reading = items if any(item.passages for item in items) else reading_set()
    of_reading = sample if reading is items else f"{READING_SET} ({len(reading)} questions)"
    ask = functools.partial(ask_with_passages, num_sentences=sentences_by_vectors(config.evaluation))
    makers: dict[str, Callable[[], RiskTest]] = {
        "robustness": lambda: robustness_test(items, sample, make_prompt=ask, seed=seed),
        "fairness": fairness_test,
        "memorization": lambda: _memorization(config, trained),
        "prompt_injection": lambda: injection_test(reading, of_reading, make_prompt=ask_with_texts, seed=seed),
        "jailbreaks": jailbreak_test,
        "over_refusal": over_refusal_test,
    }
    unmeasured = {}
    if "memorization" in chosen and not trained.rows and config.evaluation.canaries is None:
        unmeasured["memorization"] = trained.reason
    return RiskPlan(
        tuple(make() for name, make in makers.items() if name in chosen and name not in unmeasured), unmeasured
    )


def _items(exam: Exam, name: str, seed: int) -> tuple[tuple[ReadingItem, ...], str]:
    """Return the exam's questions with their retrieved passages, else those that have the answer."""
    every = [
        ReadingItem(
            str(number),
            asked.question.question,
            asked.question.answers,
            tuple(passage.text for passage in asked.passages.get(RETRIEVED) or asked.passages.get(GOLD, ())),
            asked.question.is_whole,
        )
        for number, asked in enumerate(exam.asked, 1)
    ]
    chosen = _sampled(every, [item.id for item in every], _MOST_ITEMS, seed)
    of_all = f"{len(chosen)} of {len(every)}" if len(chosen) < len(every) else str(len(every))
    return tuple(chosen), f"{name} ({of_all} questions)"


def _memorization(config: Config, trained: TrainingData) -> RiskTest:
    seed = config.seed
    answers = list(_answers(trained.rows))
    ids = [answer.id for answer in answers]
    found = (
        Secret(answer, finding.start, answer.text[finding.start : finding.end])
        for answer in _sampled(answers, ids, _MOST_SEARCHED, seed)
        for finding in find_pii(answer.text)
    )
    secrets = [secret for secret, _ in zip(found, range(_MOST_SECRETS), strict=False)]
    canaries = list(_canaries(config.evaluation.canaries))
    asked = _sampled(answers, ids, _MOST_ANSWERS, seed)
    parts = [f"{len(asked)} of {len(answers)} answers, {len(secrets)} personal data of {trained.name}"] * bool(answers)
    parts += [f"{len(canaries)} canaries of {Path(config.evaluation.canaries or '').name}"] * bool(canaries)
    return memorization_test(asked, [*secrets, *canaries], ", ".join(parts), seed=seed)


def _answers(rows: Sequence[Mapping[str, Any]]) -> Iterator[TrainedAnswer]:
    """Yield the last answer of each row that is trained."""
    for row in rows:
        turns = row["messages"]
        last = turns[-1] if turns else {}
        if len(turns) > 1 and last["role"] == "assistant" and last.get("train") is not False and last.get("content"):
            before = tuple({"role": turn["role"], "content": turn["content"] or ""} for turn in turns[:-1])
            yield TrainedAnswer(str(row["id"]), before, str(last["content"]).strip())


def _canaries(path: str | None) -> Iterator[Secret]:
    for row, where in read_rows(Path(path).expanduser(), _CANARY) if path is not None else ():
        prompt, answer, secret = (row.get(name) for name in ("prompt", "answer", "secret"))
        if not (isinstance(prompt, str) and isinstance(answer, str) and isinstance(secret, str) and secret):
            raise InputError(f"{where} lacks a prompt, an answer or a secret.", hint=_CANARY)
        if secret not in answer:
            raise InputError(f"{where}: the secret is not in the answer.", hint=_CANARY)
        trained = TrainedAnswer(where, ({"role": "user", "content": prompt},), answer)
        yield Secret(trained, answer.index(secret), secret, is_canary=True)


def _sampled(items: Sequence[_Item], ids: Sequence[str], count: int, seed: int) -> list[_Item]:
    """Return as many items by a digest of the seed and their ids, in their order."""
    ranked = ((text_digest([str(seed), name]), at) for at, name in enumerate(ids))
    return [items[at] for at in sorted(at for _, at in heapq.nsmallest(count, ranked))]
