"""New examples by templates, for English statements: no model, the same result every time.

From "The mill opens at 09:00." and its question: a sentence to complete, a claim to confirm, a claim with another
number to correct, and two questions at once. Each answer is made of the statement's own words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from llamafarm_ray.data.expansion.parents import Row, question_and_answer
from llamafarm_ray.data.text import language_of, num_words, text_digest

__all__ = ["invented"]

_LAST_VALUE = re.compile(
    r"(?P<before>.*\s)(?P<value>\S*\d\S*?(?:\s(?:euros?|pounds?|dollars?|percent|\w+s))?)(?P<end>[.!]?)"
)
_NUMBER = re.compile(r"\d+")
_MIN_WORDS, _MAX_WORDS = 4, 40


def invented(rows: Sequence[Row]) -> Iterator[tuple[Row, list[dict[str, object]]]]:
    """Yield new conversations from the rows of a passage, each with its parent, in turns of the templates."""
    stated = [row for row in _one_a_fact(rows) if _is_statement(question_and_answer(row)[1])]
    for template in (_confirm, _complete, _correct):
        for row in stated:
            made = template(question_and_answer(row)[1])
            if made:
                yield row, _turns(*made)
    for row, other in itertools.pairwise(stated):
        (question, answer), (second, more) = question_and_answer(row), question_and_answer(other)
        if question.endswith("?") and second.endswith("?") and answer != more:
            yield row, _turns(f"{question} {second}", f"{answer} {more}")


def _one_a_fact(rows: Sequence[Row]) -> list[Row]:
    facts: dict[str, Row] = {}
    for row in rows:
        facts.setdefault(row["fact"], row)
    return list(facts.values())


def _is_statement(answer: str) -> bool:
    words = num_words(answer)
    whole = answer.endswith(".") and answer.count(". ") == 0 and answer[:1].isupper() and "\n" not in answer
    return whole and _MIN_WORDS <= words <= _MAX_WORDS and language_of(answer, "en") == "en"


def _confirm(answer: str) -> tuple[str, str]:
    claim = answer.removesuffix(".")
    return f"Is this right: \u201c{claim}\u201d?", f"Yes. {answer}"


def _complete(answer: str) -> tuple[str, str] | None:
    found = _LAST_VALUE.fullmatch(answer)
    if found is None or num_words(found["before"]) < _MIN_WORDS - 1:
        return None
    return f"Complete this sentence: \u201c{found['before']}\u2026\u201d", answer


def _correct(answer: str) -> tuple[str, str] | None:
    """A claim with its only number changed."""
    numbers = _NUMBER.findall(answer)
    if len(numbers) != 1 or int(numbers[0]) < 2 or numbers[0].startswith("0"):  # "1 day" has no plural
        return None
    step = 1 + int(text_digest([answer])[:4], 16) % 3
    claim = _NUMBER.sub(str(int(numbers[0]) + step), answer).removesuffix(".")
    return f"Somebody told me: \u201c{claim}.\u201d Is that right?", f"No. {answer}"


def _turns(question: str, answer: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
