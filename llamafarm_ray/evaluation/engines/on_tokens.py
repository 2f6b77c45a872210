"""A token engine as an `Engine`: chats become tokens as for transformers, so a prompt is the same on all backends."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from llamafarm_ray.evaluation.engines.tokens import Ends, ScoredText, TokenEngine
from llamafarm_ray.evaluation.generation import Generated
from llamafarm_ray.evaluation.kept import KeptBatches, kept_or_made
from llamafarm_ray.evaluation.losses import Loss, Scored, num_spelled_bytes
from llamafarm_ray.evaluation.progress import Report
from llamafarm_ray.models.chat import end_of_turn_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EngineOnTokens"]

_BATCH_SIZE: Final = 32
_Row = TypeVar("_Row")
_Answer = TypeVar("_Answer", Generated, Loss)


class EngineOnTokens:
    """An `Engine` on a token engine.

    Args:
        backend: its name, which kept answers depend on.
    """

    def __init__(self, engine: TokenEngine, backend: str) -> None:
        self._engine, self._backend = engine, backend
        self.tokenizer: PreTrainedTokenizerBase = engine.tokenizer
        self.max_length: int | None = engine.max_length

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        report: Report,
        *,
        with_adapter: bool = True,
        kept: KeptBatches | None = None,
    ) -> list[Generated]:
        """See `Engine.generate`."""
        stop_ids = end_of_turn_ids(self.tokenizer)

        def make(rows: Sequence[Sequence[int]]) -> list[Generated]:
            written = self._engine.write(rows, Ends(max_new_tokens, stop_ids=stop_ids), with_adapter=with_adapter)
            return [Generated(one.text.strip(), one.num_tokens, one.seconds, one.confidence) for one in written]

        def name(rows: Sequence[Sequence[int]]) -> list[object]:
            return ["answers", self._backend, [list(row) for row in rows], max_new_tokens]

        return _in_batches(list(prompts), make, name, Generated, report=functools.partial(report, "answers"), kept=kept)

    def losses(
        self,
        sequences: Sequence[Scored],
        report: Report,
        what: str,
        *,
        with_adapter: bool = True,
        kept: KeptBatches | None = None,
    ) -> list[Loss]:
        """See `Engine.losses`."""

        def make(rows: Sequence[Scored]) -> list[Loss]:
            texts = [ScoredText(tuple(row.input_ids), _first_counted(row)) for row in rows]
            told = self._engine.score(texts, with_adapter=with_adapter)
            return [_loss(self.tokenizer, row, one.logprobs) for row, one in zip(rows, told, strict=True)]

        def name(rows: Sequence[Scored]) -> list[object]:
            return ["losses", self._backend, [[row.input_ids, list(map(bool, row.counted))] for row in rows]]

        return _in_batches(list(sequences), make, name, Loss, report=functools.partial(report, what), kept=kept)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()


def _in_batches(
    rows: Sequence[_Row],
    make: Callable[[Sequence[_Row]], list[_Answer]],
    name: Callable[[Sequence[_Row]], list[object]],
    kind: type[_Answer],
    *,
    report: Callable[[float], None],
    kept: KeptBatches | None,
) -> list[_Answer]:
    """Return the answers to rows, batch by batch, those that are kept without asking."""
    found: list[_Answer] = []
    for start in range(0, len(rows), _BATCH_SIZE):
        batch = rows[start : start + _BATCH_SIZE]
        found += kept_or_made(kept, name(batch), kind, len(batch), functools.partial(make, batch))
        report(len(found) / len(rows))
    return found


def _first_counted(row: Scored) -> int:
    """Return the place of the first token whose loss counts, or the last one where none does."""
    return next((at for at, counted in enumerate(row.counted) if at and counted), len(row.input_ids) - 1)


def _loss(tokenizer: PreTrainedTokenizerBase, row: Scored, logprobs: Sequence[float]) -> Loss:
    first = len(row.input_ids) - len(logprobs)
    counted = [at for at, flag in enumerate(row.counted) if at and flag]
    total = -math.fsum(logprobs[at - first] for at in counted)
    return Loss(total, len(counted), num_spelled_bytes(tokenizer, [row.input_ids[at] for at in counted]))
