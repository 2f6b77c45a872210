"""Changed copies of training examples: the last question in other words, with mistakes, or translated and back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llamafarm_ray.config import Augmentation
from llamafarm_ray.data.expansion.asking import EndpointExpander
from llamafarm_ray.data.expansion.diversity import Diversity
from llamafarm_ray.data.expansion.noise import mistyped
from llamafarm_ray.data.expansion.parents import Row, child_row, is_plain
from llamafarm_ray.data.expansion.wordings import reworded
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.data.text import language_name, language_of, text_digest
from llamafarm_ray.text.support import names_and_numbers

__all__ = ["Augmenter"]

_STEP = "augmentation"
_NO_WORD = "no word to mistype"
_NO_ANSWER = "the model gave no other wording"
_CHANGED = "another wording changed names or numbers"


@dataclass(frozen=True)
class Augmenter:
    """Makes one copy of each row for each method.

    Args:
        settings: methods and their settings.
        expander: asks the model for paraphrases and translations; None: paraphrases by rules.
        seed: another seed, other mistakes.
    """

    settings: Augmentation
    expander: EndpointExpander | None
    seed: int = 0

    def rows(self, rows: Sequence[Row], known: Diversity, ledger: Ledger) -> Iterator[dict[str, Any]]:
        """Yield the copies of rows; what can't be changed, or repeats a question, is counted with the reason.

        Args:
            rows: rows of the training split.
            known: the questions of all examples.
            ledger: takes the counts.
        """
        counts = ledger.counts(_STEP)
        for method in self.settings.methods:
            plain = [row for row in rows if is_plain(row)]
            counts.rows_in += len(rows)
            counts.dropped["has tools or marks"] += len(rows) - len(plain)
            asked = [(row, at) for row in plain if (at := _question_at(row)) is not None]
            counts.dropped["has no question"] += len(plain) - len(asked)
            questions = [row["messages"][at]["content"] for row, at in asked]
            for (row, at), question, (changed, reason) in zip(
                asked, questions, self._changed(method, asked, questions), strict=True
            ):
                reason = reason or ("not changed" if changed == question else known.refused([changed])[0])  # noqa: PLW2901
                if reason:
                    counts.dropped[reason] += 1
                    continue
                counts.rows_out += 1
                counts.noted[method] += 1
                turns = [dict(turn) for turn in row["messages"]]
                turns[at]["content"] = changed
                by_model = self.expander is not None and method != "noise"
                origin = self.expander.provenance if by_model and self.expander else Provenance("rules")
                yield child_row(row, turns, origin, method)
        counts.dropped += type(counts.dropped)()  # without reasons that no row has

    def _changed(
        self, method: str, asked: Sequence[tuple[Row, int]], questions: Sequence[str]
    ) -> Iterable[tuple[str, str]]:
        """Yield each question changed, or the reason why it is not."""
        chances = [self._chance(method, row) for row, _ in asked]
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
            assert self.expander is not None  # noqa: S101  planned so
            found = (
                self.expander.paraphrase(questions)
                if method == "paraphrase"
                else self._translated(self.expander, asked, questions)
            )
            for question, text in zip(questions, found, strict=True):
                same = text is not None and names_and_numbers(text) == names_and_numbers(question)
                yield text or "", "" if same else (_CHANGED if text else _NO_ANSWER)

    def _translated(
        self, expander: EndpointExpander, asked: Sequence[tuple[Row, int]], questions: Sequence[str]
    ) -> list[str | None]:
        """Translate each question to one of the languages and back to its own."""
        found: dict[int, str | None] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, (row, _) in enumerate(asked):
            languages = self.settings.languages
            language = languages[self._chance("language", row).randrange(len(languages))]
            groups.setdefault((language, language_name(language_of(questions[index], "en"))), []).append(index)
        for (language, original), indices in groups.items():
            texts = expander.translate_back([questions[index] for index in indices], language, original)
            found.update(zip(indices, texts, strict=True))
        return [found[index] for index in range(len(asked))]

    def _chance(self, of: str, row: Row) -> random.Random:
        return random.Random(text_digest([of, str(self.seed), row["id"]]))


def _question_at(row: Row) -> int | None:
    """Return the place of the last user turn; None if there is none."""
    turns: Sequence[Mapping[str, Any]] = row["messages"]
    return next((at for at in reversed(range(len(turns))) if turns[at]["role"] == "user"), None)
