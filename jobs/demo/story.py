"""One run of the demo: its folder, its configuration, and its steps so far."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.cli.terminal import console
from llamafarm_ray.config import Config
from llamafarm_ray.registry import RegistryService

__all__ = ["HERE", "Demo"]

HERE = Path(__file__).resolve().parent
QUESTIONS: list[dict[str, str]] = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))


@dataclass
class Demo:
    """One run: its folder, its configuration, and what happened so far.

    Attributes:
        is_tiny: True for the tiny base model, which the demo makes itself.
    """

    folder: Path
    config: Config
    registry: RegistryService
    is_tiny: bool
    steps: list[dict[str, Any]] = field(default_factory=list)

    def edition(self, number: int) -> Config:
        """Return the configuration for an edition of the handbook: its documents, its dataset."""
        corpus = HERE / "corpus"
        if number == 2:
            corpus = self.folder / "corpus-revised"
            shutil.copytree(HERE / "corpus", corpus, dirs_exist_ok=True)
            shutil.copytree(HERE / "revision", corpus, dirs_exist_ok=True)
        documents = tuple(str(corpus / path.relative_to(HERE / "corpus")) for path in self.sources)
        source = self.config.dataset.source.model_copy(update={"path": documents if documents[1:] else documents[0]})
        dataset = self.config.dataset.model_copy(
            update={"source": source, "path": str(self.folder / "datasets" / f"edition-{number}")}
        )
        return self.config.model_copy(update={"dataset": dataset})

    @property
    def sources(self) -> list[Path]:
        """The documents of the handbook that are read, or its folder."""
        named = self.config.dataset.source.path or ()
        return [HERE.parents[1] / path for path in ([named] if isinstance(named, str) else named)]

    @property
    def questions(self) -> list[dict[str, str]]:
        """Questions about the documents that are read, with the answers of both editions."""
        return [
            item
            for item in QUESTIONS
            if any((HERE / "corpus" / item["document"]).is_relative_to(source) for source in self.sources)
        ]

    @property
    def config_file(self) -> Path:
        """The file of the configuration."""
        return Path("jobs", "demo", "tiny.yaml" if self.is_tiny else "config.yaml")

    @contextmanager
    def step(self, title: str, command: str = "") -> Iterator[dict[str, Any]]:
        """Announce a step, time it, and keep what it found for the summary."""
        console.rule(f"[bold]{len(self.steps) + 1}. {title}", align="left", style="cyan")
        if command:
            console.print(f"[dim]$ {command}[/]")
        found: dict[str, Any] = {}
        started = time.monotonic()
        yield found
        self.steps.append({"step": title, "seconds": round(time.monotonic() - started, 1), **found})
