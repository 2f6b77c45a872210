"""Checkpoints of a run: whole or absent, verified when read, on any storage, for any number of workers.

A checkpoint is a folder ``step-00000120-1f3a`` with a safetensors file from each worker and ``checkpoint.json``, which
is written last and lists the files with their digests and its own: without it the folder does not count, and a file
that differs from it makes the whole checkpoint count as damaged. The files hold trained parameters and the optimizer's
averages as whole tensors by name, each parameter in one of them. So a checkpoint does not depend on its writers: one
worker may resume from the files of four, with ZeRO or without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llamafarm_ray.errors import IntegrityError, LlamaFarmError, StorageError
from llamafarm_ray.storage import Location
from llamafarm_ray.training.strategies import LossScale, ParameterState, Strategy
from llamafarm_ray.types import Digest

__all__ = ["CheckpointStore", "RunState", "StoredCheckpoint"]

_T = TypeVar("_T")

_FOLDER = "checkpoints"
_MANIFEST = "checkpoint.json"
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RunState:
    """Position of a run. Everything else follows from the configuration, or belongs to the strategy.

    There is no random state among it: every step seeds anew, from the run's seed, the step and the worker.

    Args:
        num_updates: optimizer steps that changed the parameters; fp16 leaves some out.
        num_tokens: tokens read by all workers.
        num_counted: number of items that the objective counted: trained tokens, pairs, ...
        seconds: time spent.
        losses: of each step done.
        validation: validation losses by the step after which they were measured.
        loss_scale: fp16's, where there is one.
    """

    step: int = 0
    num_updates: int = 0
    num_tokens: int = 0
    num_counted: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    loss_scale: LossScale | None = None

    def add_step(self, loss: float, *, num_tokens: int, num_counted: int, seconds: float) -> None:
        """Count a step that is done.

        Args:
            num_tokens: tokens that all workers read in it.
            num_counted: what the objective counted in it.
            seconds: time that it took.
        """
        self.step += 1
        self.num_tokens += num_tokens
        self.num_counted += num_counted
        self.seconds += seconds
        self.losses.append(loss)

    @property
    def last_validation_loss(self) -> float | None:
        """Measured last; None before the first, or where it is not finite."""
        loss = self.validation[-1][1] if self.validation else math.nan
        return loss if math.isfinite(loss) else None

    @property
    def best_step(self) -> int | None:
        """The step with the lowest validation loss so far; None before the first."""
        return min(self.validation, key=lambda one: (_or_infinity(one[1]), one[0]))[0] if self.validation else None


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A whole checkpoint.

    Args:
        step: steps done when it was written.
        validation_loss: measured at that step, if it was.
        files: digests (sha256) of its files by name.
        state: the `RunState` as a dictionary.
    """

    name: str
    step: int
    validation_loss: float | None
    files: dict[str, str]
    state: dict[str, Any]


class CheckpointStore:
    """A run's checkpoints.

    Args:
        location: the run's folder; they lie in ``checkpoints/`` there.
        fingerprint: of the run's inputs and settings; checkpoints with another digest are not its own.
        keep: number of latest ones that stay, besides the one with the lowest validation loss.
    """

    def __init__(self, location: Location, *, fingerprint: str, keep: int = 2) -> None:
        self._location = location
        self._fingerprint = fingerprint
        self._keep = keep

    def find(self) -> list[StoredCheckpoint]:
        """The run's whole checkpoints, the latest first.

        Raises:
            StorageError: the storage does not answer.
        """
        names = [file.name for file in self._location.walk(_FOLDER) if file.name.endswith(f"/{_MANIFEST}")]
        found = []
        for name, data in zip(names, self._location.read_many(names), strict=True):
            stored = self._parse(name.split("/")[1], data)
            if stored is not None:
                found.append(stored)
        return sorted(found, key=lambda stored: (stored.step, stored.name), reverse=True)

    def _parse(self, name: str, data: bytes | None) -> StoredCheckpoint | None:
        if data is None:
            return None
        where = self._location.uri, name, _MANIFEST
        try:
            content = json.loads(data)
            if content["fingerprint"] != self._fingerprint:
                return None
            if content.pop("digest") != _digest_of(content):
                _logger.warning("The checkpoint %s/%s is left out: its %s is damaged.", *where)
                return None
            return StoredCheckpoint(
                name, content["state"]["step"], content["validation_loss"], content["files"], content["state"]
            )
        except (ValueError, KeyError, TypeError):
            _logger.warning("The checkpoint %s/%s is left out: its %s can't be read.", *where)
            return None

    def restore(self, strategy: Strategy) -> RunState:
        """Go on from the latest checkpoint that is undamaged; from the beginning where there is none.

        All workers call it, and agree on one.

        Raises:
            StorageError: the storage does not answer.
        """
        for stored in _of_rank_0(strategy, self.find):
            states, problem = self._load_all(strategy, stored)
            if problem:
                _logger.warning("The checkpoint %s is left out: %s", stored.name, problem)
                continue
            state = RunState(**stored.state)
            state.validation = [(step, loss) for step, loss in state.validation]
            strategy.import_state(states, state.num_updates)
            if stored.state["loss_scale"] is not None:
                state.loss_scale = LossScale(**stored.state["loss_scale"])
                strategy.set_loss_scale(state.loss_scale)
            return state
        return RunState()

    def load_weights(self, strategy: Strategy, stored: StoredCheckpoint) -> None:
        """Put a checkpoint's parameters into the model. All workers call it.

        Raises:
            IntegrityError: it is damaged.
            StorageError: the storage does not answer.
        """
        states, problem = self._load_all(strategy, stored)
        if problem:
            raise IntegrityError(f"The checkpoint {stored.name} can't be read: {problem}")
        strategy.import_state(states, stored.state["num_updates"])

    def _load_all(self, strategy: Strategy, stored: StoredCheckpoint) -> tuple[dict[str, ParameterState], str]:
        """The parameters' states by name, and what any worker found damaged; empty where none did."""
        states: dict[str, ParameterState] = {}
        problems = _together(strategy, lambda: self._load(stored, states))
        return states, next((problem for problem in problems if problem), "")

    def _load(self, stored: StoredCheckpoint, states: dict[str, ParameterState]) -> str:
        """Fill ``states``; returns what is damaged."""
        try:
            with tempfile.TemporaryDirectory(prefix="llamafarm-checkpoint-") as folder:
                for name, digest in stored.files.items():
                    path = Path(folder, name)
                    self._location.download(f"{_FOLDER}/{stored.name}/{name}", path)
                    if _sha256(path) != digest:
                        return f"{name} is not what was written."
                    for key, tensor in load_file(path).items():
                        kind, _, parameter = key.partition(":")
                        states.setdefault(parameter, {})[kind] = tensor
        except FileNotFoundError as error:
            return f"a file is missing: {error}"
        except SafetensorError as error:
            return f"a file is damaged: {error}"
        except OSError as error:  # the folder for temporary files
            raise StorageError(f"A checkpoint can't be read: {error}", hint="Is the disk full?") from error
        return ""

    def save(self, strategy: Strategy, state: RunState) -> StoredCheckpoint:
        """Write a checkpoint and remove old ones. All workers call it.

        Raises:
            StorageError: the storage is full or does not answer. Earlier checkpoints stay.
            IntegrityError: a tensor is not finite.
        """
        state.loss_scale = strategy.loss_scale()
        name = _of_rank_0(strategy, lambda: f"step-{state.step:08d}-{secrets.token_hex(2)}")
        written = _together(strategy, lambda: self._write_part(strategy, name))
        files = {file: digest for part in written for file, digest in part.items()}
        loss = dict(state.validation).get(state.step)
        stored = StoredCheckpoint(name, state.step, loss, files, asdict(state))
        _together(strategy, lambda: self._finish(stored) if strategy.place.rank == 0 else None)
        return stored

    def _write_part(self, strategy: Strategy, name: str) -> dict[str, str]:
        """Write every n-th parameter, and say under which name and digest."""
        rank, num_workers = strategy.place.rank, strategy.place.num_workers
        part: dict[str, torch.Tensor] = {}
        problem = ""
        # To the end, whatever is found: the other workers wait in each of its collectives.
        for index, (parameter, tensors) in enumerate(strategy.export_state()):
            if index % num_workers == rank:
                for kind, tensor in tensors.items():
                    if not math.isfinite(float(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
                        problem = problem or f"{kind} of {parameter} is not finite, so no checkpoint was written."
                    part[f"{kind}:{parameter}"] = tensor.contiguous()
        if problem:
            raise IntegrityError(problem)
        if not part:
            return {}
        file = f"rank-{rank}.safetensors"
        try:
            with tempfile.TemporaryDirectory(prefix="llamafarm-checkpoint-") as folder:
                path = Path(folder, file)
                save_file(part, path)
                digest = _sha256(path)
                self._location.upload(path, f"{_FOLDER}/{name}/{file}", Digest(f"sha256:{digest}"))
        except (OSError, SafetensorError) as error:  # the folder for temporary files
            raise StorageError(f"A checkpoint can't be written: {error}", hint="Is the disk full?") from error
        return {file: digest}

    def adopt(self, other: CheckpointStore, stored: StoredCheckpoint) -> None:
        """Copy a checkpoint of another run, as one of this run. The driver calls it, before there are workers.

        Raises:
            IntegrityError: it is damaged.
            StorageError: it can't be read or written.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="llamafarm-checkpoint-") as folder:
                for name, digest in stored.files.items():
                    path, source = Path(folder, name), f"{_FOLDER}/{stored.name}/{name}"
                    other._location.download(source, path)
                    if _sha256(path) != digest:
                        raise IntegrityError(f"The checkpoint {stored.name} can't be read: {name} is damaged.")
                    self._location.upload(path, source, Digest(f"sha256:{digest}"))
        except OSError as error:
            raise StorageError(f"The checkpoint {stored.name} can't be copied: {error}") from error
        self._finish(stored)

    def _finish(self, stored: StoredCheckpoint) -> None:
        content = {
            "fingerprint": self._fingerprint,
            "validation_loss": stored.validation_loss,
            "files": stored.files,
            "state": stored.state,
        }
        content["digest"] = _digest_of(content)
        self._location.write(f"{_FOLDER}/{stored.name}/{_MANIFEST}", json.dumps(content).encode())
        self._clean_up()

    def _clean_up(self) -> None:
        """Keep the latest and the best; the rest goes, its manifest first, so that nothing half removed counts."""
        found = self.find()
        keep = {stored.name for stored in [*found[: self._keep], *_by_loss(found)[:1]]}
        files = [file.name for file in self._location.walk(_FOLDER)]
        for name in sorted(files, key=lambda name: not name.endswith(_MANIFEST)):
            if name.split("/")[1] not in keep:
                self._location.remove(name)

    def clear(self) -> None:
        """Remove all checkpoints.

        Raises:
            StorageError: the storage does not answer.
        """
        files = [file.name for file in self._location.walk(_FOLDER)]
        for name in sorted(files, key=lambda name: not name.endswith(_MANIFEST)):
            self._location.remove(name)

    def by_loss(self, strategy: Strategy) -> list[StoredCheckpoint]:
        """The checkpoints at which the validation loss was measured, the lowest first. All workers call it."""
        return _by_loss(_of_rank_0(strategy, self.find))


def _by_loss(found: list[StoredCheckpoint]) -> list[StoredCheckpoint]:
    measured = [stored for stored in found if stored.validation_loss is not None]
    return sorted(measured, key=lambda stored: (_or_infinity(stored.validation_loss), stored.step))


def _or_infinity(loss: float | None) -> float:
    """A loss that can be compared: one that is not finite is the worst."""
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _of_rank_0(strategy: Strategy, make: Callable[[], _T]) -> _T:
    """Return the first worker's result on all workers, or raise its error there."""
    first = _together(strategy, lambda: make() if strategy.place.rank == 0 else None)[0]
    return cast("_T", first)  # made by the first worker, whose turn it was


def _together(strategy: Strategy, do: Callable[[], _T]) -> list[_T]:
    """Let each worker do its part, and give all parts to each. If one fails, all raise: nobody waits for it.

    Raises:
        LlamaFarmError: the first worker's error that is one.
    """
    result, error = None, None
    try:
        result = do()
    except LlamaFarmError as caught:
        error = caught
    parts = strategy.gather((result, error))
    for _, failure in parts:
        if failure is not None:
            raise failure
    return [part for part, _ in parts]


def _digest_of(content: Mapping[str, object]) -> str:
    """Of a manifest's other fields; JSON gives every float back as it was."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
