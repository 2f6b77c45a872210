"""A scorer of your own: a Python function, called in a process of its own with a time limit."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.custom.questions import Question

__all__ = ["OwnScorer", "Scored"]

_PROGRAM = Path(__file__).with_name("scorer_process.py")
_REFERENCE = re.compile(r"(?P<where>.+):(?P<function>[A-Za-z_]\w*)")
_MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Scored:
    """Score of one answer.

    Args:
        value: finite; None if the scorer failed on it.
        failure: the scorer's error; empty if there was none.
    """

    value: float | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class OwnScorer:
    """A function ``score(answer: str, row: dict) -> float | bool``.

    The code of a file travels with it, so that it runs on a machine that lacks the file.

    Args:
        module: the module's name; empty for a file.
        time_limit_s: for all answers together.
    """

    module: str
    code: str
    function: str
    time_limit_s: float

    @classmethod
    def find(cls, reference: str, *, time_limit_s: float) -> Self:
        """Read ``package.module:function`` or ``folder/file.py:function``.

        Raises:
            InputError: it has another form, or the file can't be read.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise InputError(f"{reference!r} is no scorer.", hint="Write module:function or file.py:function.")
        where = match["where"]
        if not where.endswith(".py"):
            return cls(where, "", match["function"], time_limit_s)
        try:
            code = Path(where).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The scorer {where} can't be read: {error}.") from None
        return cls("", code, match["function"], time_limit_s)

    def score(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Scored]:
        """Return the score of each answer, in order.

        Raises:
            InputError: the scorer can't be started, takes longer than its limit, or ends early.
        """
        pairs = [
            {"answer": answer, "row": dict(question.row)} for question, answer in zip(questions, answers, strict=True)
        ]
        with tempfile.TemporaryDirectory(prefix="llamafarm-scorer-") as folder:
            # Results come back in a file: a scorer may print.
            output = Path(folder) / "scores.json"
            asked = {"module": self.module, "code": self.code, "function": self.function, "pairs": pairs}
            said = self._call(output, json.dumps(asked), len(pairs))
            if not output.is_file():
                raise InputError(f"The scorer {self._name} failed: {(said or ['it ended early'])[-1][:_MAX_SHOWN]}")
            found = json.loads(output.read_text(encoding="utf-8"))
        return [_scored(one) for one in found]

    def _call(self, output: Path, asked: str, num_answers: int) -> list[str]:
        """Run the program and return the lines of its standard error."""
        process = subprocess.Popen(  # this Python, and a program of ours
            [sys.executable, str(_PROGRAM), str(output)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = process.communicate(asked, timeout=self.time_limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.communicate()
            raise InputError(
                f"The scorer {self._name} took longer than {self.time_limit_s:g} s for {num_answers} answers.",
                hint="Raise time_limit_s of the evaluation, or make it faster.",
            ) from None
        return said.strip().splitlines()

    @property
    def _name(self) -> str:
        return f"{self.module or 'file'}:{self.function}"


def _scored(result: Mapping[str, object]) -> Scored:
    if "error" in result:
        return Scored(None, str(result["error"])[:_MAX_SHOWN])
    value = result["value"]
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return Scored(float(value))
    return Scored(None, f"the scorer returned {value!r:.80}, which is no finite number")
