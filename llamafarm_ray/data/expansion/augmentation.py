"""Changed copies of training examples: the last question in other words, with mistakes, or translated and back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.config import Augmentation
from llamafarm_ray.data.expansion.asking import ModelExpander
from llamafarm_ray.data.expansion.diversity import Diversity
from llamafarm_ray.data.expansion.noise import mistyped
from llamafarm_ray.data.expansion.parents import Row, child_row, is_plain
from llamafarm_ray.data.expansion.wordings import reworded
from llamafarm_ray.data.quality.new_rows import FaultOf
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.text import language_name, language_of, text_digest
from llamafarm_ray.text.pii.find import redacted
from llamafarm_ray.text.support import names_and_numbers

__all__ = ["Augmenter"]

_STEP = "augmentation"
_LAST_TURN = "\nuser: "
_NO_WORD = "no word to mistype"
_NO_ANSWER = "the model gave no other wording"
_CHANGED = "another wording changed names or numbers"


@dataclass(frozen=True)
class Augmenter:
    """Makes one copy of each row for each method.

    Args:
        expander: asks the model for paraphrases and translations; None: paraphrases by rules.
        seed: another seed, other mistakes.
    """

    settings: Augmentation
    expander: ModelExpander | None
    seed: int = 0

    def rows(
        self, rows: Sequence[Row], known: Diversity, ledger: Ledger, fault_of: FaultOf
    ) -> Iterator[dict[str, Any]]:
        """Yield the copies of rows; what can't be changed, or repeats a question, is counted with the reason.

        Args:
            rows: rows of the training split.
            ledger: takes the counts.
            fault_of: returns the reason why a copy can't be used.
        """
        counts = ledger.counts(_STEP)
        for method in self.settings.methods:
            plain = [row for row in rows if is_plain(row)]
            counts.rows_in += len(rows)
            counts.dropped["has tools or marks"] += len(rows) - len(plain)
            asked = [(row, place) for row in plain if (place := _place_of_question(row)) is not None]
            counts.dropped["has no question"] += len(plain) - len(asked)
            questions = [row["messages"][at]["content"][begin:] for row, (at, begin) in asked]
            for (row, (at, begin)), question, (changed, reason) in zip(
                asked, questions, self._changed(method, [row for row, _ in asked], questions), strict=True
            ):
                whole = row["messages"][at]["content"][:begin] + changed
                copy = self._copy(row, at, whole, method)
                fault = (
                    reason or ("not changed" if changed == question else fault_of(copy)) or known.refused([whole])[0]
                )
                if fault:
                    counts.dropped[fault] += 1
                    counts.add_sample(fault, redacted(f"{question} {changed}".strip()))
                    continue
                counts.rows_out += 1
                counts.noted[method] += 1
                yield copy
        counts.dropped += type(counts.dropped)()  # without reasons that no row has

    def _copy(self, row: Row, at: int, content: str, method: str) -> dict[str, object]:
        """Return a row with another content of one turn."""
        turns = [dict(turn) for turn in row["messages"]]
        turns[at]["content"] = content
        by_model = self.expander is not None and method != "noise"
        origin = self.expander.provenance if by_model and self.expander else Provenance("rules")
        return child_row(row, turns, origin, method)

    def _changed(self, method: str, rows: Sequence[Row], questions: Sequence[str]) -> Iterable[tuple[str, str]]:
        """Yield each question changed, or the reason why it is not."""
        chances = [self._chance(method, row) for row in rows]
        if method == "noise":
            for question, chance in zip(questions, chances, strict=True):
                changed = mistyped(question, self.settings.noise_rate, chance)
                yield changed, _NO_WORD if changed == question else ""
        elif method == "paraphrase" and self.expander is None:
            for question, chance in zip(questions, chances, strict=True):
                language = language_of(question, "en")
                reason = "" if language == "en" else f"no rules for {language_name(language)}"
                yield reworded(question, chance), reason
        else:
            assert self.expander is not None  # planned so
            found = (
                self.expander.paraphrase(questions)
                if method == "paraphrase"
                else self._translated(self.expander, rows, questions)
            )
            for question, text in zip(questions, found, strict=True):
                same = text is not None and names_and_numbers(text) == names_and_numbers(question)
                yield text or "", "" if same else (_CHANGED if text else _NO_ANSWER)

    def _translated(self, expander: ModelExpander, rows: Sequence[Row], questions: Sequence[str]) -> list[str | None]:
        """Translate each question to one of the languages and back to its own."""
        found: dict[int, str | None] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, row in enumerate(rows):
            languages = self.settings.languages
            language = languages[self._chance("language", row).randrange(len(languages))]
            groups.setdefault((language, language_name(language_of(questions[index], "en"))), []).append(index)
        for (language, original), indices in groups.items():
            texts = expander.translate_back([questions[index] for index in indices], language, original)
            found.update(zip(indices, texts, strict=True))
        return [found[index] for index in range(len(rows))]

    def _chance(self, of: str, row: Row) -> random.Random:
        return random.Random(text_digest([of, str(self.seed), row["id"]]))


def _place_of_question(row: Row) -> tuple[int, int] | None:
    """Return the last user turn and where its question begins, None if there is none.

    The prompt around a conversation to rewrite stays as it is, and a text to summarize is no question.
    """
    turns: Sequence[Mapping[str, Any]] = row["messages"]
    at = next((at for at in reversed(range(len(turns))) if turns[at]["role"] == "user"), None)
    kind = json.loads(row["provenance"]).get("kind") if row["provenance"] else None
    if at is None or kind == "summaries":
        return None
    mark = turns[at]["content"].rfind(_LAST_TURN) if kind == "query_rewrites" else -1
    return at, mark + len(_LAST_TURN) if mark >= 0 else 0
