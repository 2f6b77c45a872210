"""garak's report, one JSON object a line: the answers to each probe's prompts, and what its detectors say.

Source: the files ``command.py``, ``attempt.py`` and ``evaluators/base.py`` of garak 0.17
(https://github.com/NVIDIA/garak). These kinds of lines are read; others are skipped:

* ``start_run setup`` and ``init`` have the threshold of a detector's score and garak's version.
* ``attempt`` with status 2 is a prompt with its answers, and each detector's score of each answer.
* ``eval`` says that a probe is finished, and counts what one detector found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llamafarm_ray.errors import InputError

__all__ = ["GarakReport", "ProbeReport", "ProbedAnswer", "read_report"]

_COMPLETE: Final = 2
_THRESHOLD: Final = 0.5
_HINT: Final = "It may be of a version of garak that is not known here: 0.17 is."


@dataclass(frozen=True, slots=True)
class ProbedAnswer:
    """An answer to a probe's prompt.

    Args:
        attempt: name of the prompt within the probe; several answers may share it.
        prompt: last message of the user.
        hits: by detector, True if it takes the answer for a success of the attack; without those that gave no score.
    """

    attempt: str
    prompt: str
    text: str
    hits: Mapping[str, bool]

    @property
    def is_hit(self) -> bool:
        """True if any detector takes the answer for a success."""
        return any(self.hits.values())


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """A finished probe.

    Args:
        name: its module and class, such as ``dan.Ablation_Dan_11_0``.
        answers: answers that a detector has scored.
        num_unscored: answers without a score, such as those that the endpoint refused to give.
    """

    name: str
    goal: str
    answers: tuple[ProbedAnswer, ...]
    num_unscored: int

    @property
    def detectors(self) -> tuple[str, ...]:
        """Names of the detectors, in order."""
        return tuple(sorted({name for answer in self.answers for name in answer.hits}))


@dataclass(frozen=True, slots=True)
class GarakReport:
    """A report.

    Args:
        version: garak's version; empty if the report does not say.
        probes: finished probes by name.
    """

    version: str
    probes: Mapping[str, ProbeReport]


@dataclass(slots=True)
class _Found:
    version: str = ""
    threshold: float = _THRESHOLD
    goals: dict[str, str] = field(default_factory=dict)
    answers: dict[str, list[ProbedAnswer]] = field(default_factory=dict)
    unscored: Counter[str] = field(default_factory=Counter)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def read_report(lines: Iterable[str]) -> GarakReport:
    """Read a report; that of a run that was stopped has the probes that were finished.

    Raises:
        InputError: a line has another form, or a probe's counts differ from its answers.
    """
    found = _Found()
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):  # garak was stopped while it wrote
            break
        try:
            _take(found, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"Line {number} of garak's report can't be read: {type(error).__name__}: {error}.", hint=_HINT
            ) from error
    for name, counts in found.counts.items():
        _check_counts(name, found.answers.get(name, ()), counts)
    return GarakReport(
        found.version,
        {
            name: ProbeReport(name, found.goals.get(name, ""), tuple(found.answers.get(name, ())), found.unscored[name])
            for name in sorted(found.counts)
        },
    )


def _take(found: _Found, row: Mapping[str, Any]) -> None:
    match row["entry_type"]:
        case "start_run setup":
            found.threshold = float(row.get("run.eval_threshold", _THRESHOLD))
        case "init":
            found.version = str(row["garak_version"])
        case "attempt" if row["status"] == _COMPLETE:
            _take_attempt(found, row)
        case "eval":
            found.counts.setdefault(row["probe"], {})[row["detector"]] = int(row["fails"])


def _take_attempt(found: _Found, row: Mapping[str, Any]) -> None:
    probe = row["probe_classname"]
    found.goals.setdefault(probe, str(row.get("goal") or ""))
    answers = found.answers.setdefault(probe, [])
    for at, output in enumerate(row["outputs"]):
        hits = _hits(row["detector_results"], at, found.threshold)
        if hits:
            text = str((output or {}).get("text") or "")
            answers.append(ProbedAnswer(str(row["uuid"]), _prompt(row), text, hits))
        else:
            found.unscored[probe] += 1


def _check_counts(name: str, answers: Iterable[ProbedAnswer], counts: Mapping[str, int]) -> None:
    counted = Counter(detector for one in answers for detector, is_hit in one.hits.items() if is_hit)
    for detector, fails in counts.items():
        if counted[detector] != fails:
            raise InputError(
                f"garak's report counts {fails} successes of {name} by {detector}, and has {counted[detector]} such "
                "answers.",
                hint=_HINT,
            )


def _hits(results: Mapping[str, list[float | None]], at: int, threshold: float) -> dict[str, bool]:
    scores = {detector: scores[at] if at < len(scores) else None for detector, scores in results.items()}
    return {detector: float(score) >= threshold for detector, score in scores.items() if score is not None}


def _prompt(row: Mapping[str, Any]) -> str:
    turns = row["prompt"]["turns"]
    asked = [turn["content"].get("text") for turn in turns if turn["role"] == "user"]
    return str((asked or [""])[-1] or "")
