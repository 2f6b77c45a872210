"""Write pairs with the base model: it asks questions about each text, and the text itself is the answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llamafarm_ray.data.generation.base_model.sampling import LineSampler
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.generation.base_model.texts import Text, asked_words, question_fault, texts_of, without_topic
from llamafarm_ray.data.generation.base_model.uniqueness import best_texts
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.lessons import LESSON_LANGUAGES, heading_lines
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.text import language_name, text_digest

__all__ = ["BaseModelWriter"]

_QUESTION_TOKENS = 24


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A question about the text with that index; the higher the score, the better.

    Args:
        text: index of the text.
        question: the question.
        score: mean log-probability of its tokens.
        short: the question without the document's name, where it fits no other text better; else the same.
    """

    text: int
    question: str
    score: float
    short: str = ""


class BaseModelWriter:
    """A `PairWriter` over a model that learned the lessons.

    A question is kept if it has no fault (`question_fault`), is likely, and fits no other text better. The answer is
    `Text.answer`, in the document's own words: a small model that shortens it makes mistakes.

    Args:
        sampler: the model.
        sampling: settings.
        provenance: recorded with each example.
    """

    name = "base_model"

    def __init__(self, sampler: LineSampler, sampling: Sampling, provenance: Provenance) -> None:
        self._sampler = sampler
        self._sampling = sampling
        self._provenance = provenance

    def write(self, passages: Sequence[Passage]) -> Iterator[Written]:
        """See `PairWriter.write`."""
        texts: list[Text] = []
        owners: list[int] = []
        dropped: dict[int, Counter[str]] = defaultdict(Counter)
        for index, passage in enumerate(passages):
            if passage.language not in LESSON_LANGUAGES:
                dropped[index][f"no lessons for {language_name(passage.language)}"] += 1
                continue
            found = texts_of(passage.title, passage.headings, passage.prose)
            texts += found
            owners += [index] * len(found)
        examples: dict[int, list[Example]] = defaultdict(list)
        for candidate in self._best(self._checked(texts, self._asked(texts), owners, dropped)):
            owner = owners[candidate.text]
            examples[owner].append(self._example(passages[owner], candidate, texts[candidate.text].answer))
        for index in range(len(passages)):
            yield Written(tuple(examples[index]), dropped[index])

    def _asked(self, texts: Sequence[Text]) -> list[_Candidate]:
        """Return the questions drawn for each text, each wording once."""
        drawn = self._sampler.sample(
            [f"{heading_lines(text.topic, text.before, text.text)}Question:" for text in texts],
            num_samples=self._sampling.num_samples,
            max_tokens=_QUESTION_TOKENS,
            temperature=self._sampling.temperature,
            seed=self._sampling.seed,
        )
        found = []
        for index, lines in enumerate(drawn):
            scores: dict[str, float] = {}
            for line in lines:
                scores[line.text] = max(line.log_prob, scores.get(line.text, line.log_prob))
            found += [_Candidate(index, question, score) for question, score in scores.items()]
        return found

    def _checked(
        self,
        texts: Sequence[Text],
        asked: Sequence[_Candidate],
        owners: Sequence[int],
        dropped: dict[int, Counter[str]],
    ) -> list[_Candidate]:
        """Return the questions without a fault."""
        shorts = [without_topic(each.question, texts[each.text].topic) for each in asked]
        wordings = [*(each.question for each in asked), *shorts]
        best = best_texts(wordings, [f"{text.topic}\n{text.text}" for text in texts])
        kept = []
        for candidate, short, best_text, best_of_short in zip(
            asked, shorts, best[: len(asked)], best[len(asked) :], strict=True
        ):
            fault = question_fault(candidate.question, texts[candidate.text])
            if not fault and best_text != candidate.text:
                fault = "question fits another text better"
            if not fault and candidate.score < self._sampling.min_score:
                fault = "question is unlikely"
            if fault:
                dropped[owners[candidate.text]][fault] += 1
            else:
                is_clear = best_of_short == candidate.text
                kept.append(replace(candidate, short=short if is_clear else candidate.question))
        return kept

    def _best(self, candidates: Sequence[_Candidate]) -> Iterator[_Candidate]:
        """Yield the best questions of each text that differ in more than small words, every second one shortened."""
        by_text: dict[int, list[_Candidate]] = defaultdict(list)
        for candidate in candidates:
            by_text[candidate.text].append(candidate)
        for group in by_text.values():
            different: dict[frozenset[str], _Candidate] = {}
            for candidate in sorted(group, key=lambda each: (-each.score, each.question)):
                different.setdefault(asked_words(candidate.question), candidate)
            for place, candidate in enumerate(list(different.values())[: self._sampling.phrasings]):
                yield replace(candidate, question=candidate.short) if place % 2 else candidate

    def _example(self, passage: Passage, candidate: _Candidate, answer: str) -> Example:
        return Example(
            (Message("user", candidate.question), Message("assistant", answer)),
            passage.document,
            passage.document_digest,
            passage.with_headings,
            fact=text_digest([passage.document, str(passage.index), answer]),
            passage_index=passage.index,
            provenance=self._provenance,
        )
