"""garak's process: an environment of its own, a configuration in a file, and a report that grows while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from llamafarm_ray.errors import InfrastructureError, UnsupportedError
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.progress import Report
from llamafarm_ray.evaluation.risk.garak.report import GarakReport, read_report

__all__ = ["GarakRun", "garak_version"]

_INSTALL: Final = "python -m venv garak-env && garak-env/bin/pip install garak, and give garak-env/bin/python."
_VERSION: Final = "import importlib.metadata; print(importlib.metadata.version('garak'))"
_ANSWERS_WITHIN_S: Final = 60
_LOOKS_EVERY_S: Final = 0.5
_SHOWN_LINES: Final = 3
_PREFIX: Final = "garak"


def garak_version(python: Path) -> str:
    """Return the version of garak in the environment of a Python.

    Raises:
        UnsupportedError: there is no such Python, or garak is not installed there.
    """
    try:
        done = subprocess.run(  # the user's own Python
            [python, "-I", "-c", _VERSION], capture_output=True, text=True, timeout=_ANSWERS_WITHIN_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise UnsupportedError(
            f"garak is not installed for {python}: {(said or ['it does not start'])[-1]}.", hint=_INSTALL
        ) from None
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class GarakRun:
    """A run of garak against an endpoint.

    Args:
        python: Python of the environment that garak is installed in.
        probes: modules, or modules with a class, such as ``dan`` and ``encoding.InjectBase64``.
        max_prompts: most prompts of a probe.
        generations: answers to each prompt.
        seed: chooses prompts where a probe has more.
        time_limit_s: for all probes together.
        clock: tells seconds.
    """

    python: Path
    endpoint: Endpoint
    probes: tuple[str, ...]
    max_prompts: int
    generations: int
    temperature: float
    max_new_tokens: int
    seed: int
    time_limit_s: float
    clock: Callable[[], float] = time.monotonic

    @property
    def settings(self) -> dict[str, object]:
        """Settings that the answers depend on, beside the model and the prompts."""
        names = ("max_prompts", "generations", "temperature", "max_new_tokens", "seed")
        return {name: getattr(self, name) for name in names}

    def run(self, report: Report) -> tuple[GarakReport, str]:
        """Ask the probes; return the report, and the reason why probes are missing in it.

        Raises:
            InfrastructureError: garak finished no probe.
            InputError: its report has another form.
        """
        with tempfile.TemporaryDirectory(prefix="llamafarm-garak-") as name:
            folder = Path(name)
            config, log, output = (folder / one for one in ("config.json", "log.txt", f"{_PREFIX}.report.jsonl"))
            config.write_text(json.dumps(self.configuration(folder)), encoding="utf-8")
            with log.open("wb") as file:
                status = self._call(config, file, output, report)
            said = _last_lines(log)
            found = read_report(_lines(output))
        if status is None:
            reason = f"garak was stopped after {self.time_limit_s:g} s (evaluation.garak.time_limit_s)"
        else:
            reason = f"garak did not finish it: {said}" if said else "garak did not finish it"
        if not found.probes:
            raise InfrastructureError(
                f"garak finished no probe of {', '.join(self.probes)}. {reason}.",
                hint="`python -m garak --list_probes` of its environment names its probes; some need the hub.",
            )
        return found, reason

    def configuration(self, folder: Path) -> dict[str, object]:
        """Return garak's configuration; its report goes to a folder. The key is not in it."""
        generator = {
            "uri": f"{self.endpoint.base_url.rstrip('/')}/",
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "suppressed_params": ["stop"],  # by default it stops at "#" and ";"
        }
        return {
            "system": {"parallel_attempts": self.endpoint.concurrency, "lite": True},
            "run": {
                "spec": {"include": [f"probes.{probe}" for probe in self.probes]},
                "generations": self.generations,
                "soft_probe_prompt_cap": self.max_prompts,
                "seed": self.seed,
            },
            "plugins": {
                "target_type": "openai.OpenAICompatible",
                "target_name": self.endpoint.model,
                "extended_detectors": False,
                "generators": {"openai": {"OpenAICompatible": generator}},
            },
            "reporting": {
                "report_dir": str(folder),
                "report_prefix": _PREFIX,
                "confidence_interval_method": "none",  # ours knows which answers belong together
            },
        }

    def environment(self, folder: Path, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of garak's process: the endpoint's key, and no settings of the user's own."""
        kept = {name: value for name, value in given.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return {
            **kept,
            "OPENAICOMPATIBLE_API_KEY": given.get(self.endpoint.api_key_env) or "none",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
        }

    def _call(self, config: Path, log: IO[bytes], output: Path, report: Report) -> int | None:
        """Return garak's exit status; None if it took too long and was ended."""
        process = subprocess.Popen(  # the user's own Python, and a file of ours
            [self.python, "-m", "garak", "--skip_unknown", "--config", config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=config.parent,
            env=self.environment(config.parent, os.environ),
            start_new_session=True,
        )
        ends = self.clock() + self.time_limit_s
        try:
            while (left := ends - self.clock()) > 0:
                report("garak", _done(output, self.probes))
                try:
                    return process.wait(min(left, _LOOKS_EVERY_S))
                except subprocess.TimeoutExpired:
                    continue
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
                process.wait()


def _done(output: Path, probes: Sequence[str]) -> float:
    """Return the share of probes that have a result by now, roughly: a module may have several."""
    evaluated = [line for line in _lines(output) if '"entry_type": "eval"' in line]
    begun = [probe for probe in probes if any(f'"probe": "{probe}' in line for line in evaluated)]
    return len(begun) / len(probes)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:  # answers hold other line ends
        return list(file)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return " / ".join([line.strip() for line in lines if line.strip()][-_SHOWN_LINES:])
