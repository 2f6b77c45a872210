"""Write pairs with the base model: it asks questions about each text, and the text itself is the answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llamafarm_ray.data.augmentation.lessons import heading_lines
from llamafarm_ray.data.generation.base_model.languages import language_rules
from llamafarm_ray.data.generation.base_model.sampling import LineSampler
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.generation.base_model.texts import Text, asked_words, question_fault, texts_of, without_topic
from llamafarm_ray.data.generation.base_model.uniqueness import best_texts
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.text import text_digest

__all__ = ["BaseModelWriter"]

_QUESTION_TOKENS = 24
_QUESTION_TOKENS_ELSEWHERE = 64
"""Models made for English write other languages with more tokens: Chinese and Japanese with two or three a letter."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A question about the text with that index; the higher the score, the better.

    Args:
        score: mean log-probability of its tokens.
        short: the question without the document's name, where it fits no other text better; else the same.
    """

    text: int
    question: str
    score: float
    short: str = ""


class BaseModelWriter:
    """A `PairWriter` over a model that learned the lessons, which are in English.

    In another language its prompt begins with examples, and a question in another language than its text is dropped.

    A question is kept if it has no fault (`question_fault`), is likely, and fits no other text better. The answer is
    `Text.answer`, in the document's own words: a small model that shortens it makes mistakes.

    Args:
        provenance: recorded with each example.
    """

    name = "base_model"

    def __init__(self, sampler: LineSampler, sampling: Sampling, provenance: Provenance) -> None:
        self._sampler = sampler
        self._sampling = sampling
        self._provenance = provenance

    def write(self, passages: Sequence[Passage]) -> Iterator[Written]:
        """See `PairWriter.write`."""
        by_language: dict[str, list[int]] = defaultdict(list)
        for index, passage in enumerate(passages):
            by_language[passage.language or "en"].append(index)
        dropped: dict[int, Counter[str]] = defaultdict(Counter)
        examples: dict[int, list[Example]] = defaultdict(list)
        for language, indices in by_language.items():
            self._write(language, {index: passages[index] for index in indices}, examples, dropped)
        for index in range(len(passages)):
            yield Written(tuple(examples[index]), dropped[index])

    def _write(
        self,
        language: str,
        passages: Mapping[int, Passage],
        examples: dict[int, list[Example]],
        dropped: dict[int, Counter[str]],
    ) -> None:
        """Write about passages in one language; examples and reasons are added by index."""
        texts: list[Text] = []
        owners: list[int] = []
        for index, passage in passages.items():
            found = texts_of(passage.title, passage.headings, passage.prose, language)
            texts += found
            owners += [index] * len(found)
        asked = self._asked(texts, language)
        for candidate in self._best(self._checked(texts, asked, owners, dropped, language)):
            owner = owners[candidate.text]
            examples[owner].append(self._example(passages[owner], candidate, texts[candidate.text].answer))

    def _asked(self, texts: Sequence[Text], language: str) -> list[_Candidate]:
        """Return the questions drawn for each text, each wording once."""
        rules = language_rules(language)
        prompts = [f"{rules.examples}{heading_lines(text.topic, text.before, text.text)}Question:" for text in texts]
        drawn = self._sampler.sample(
            prompts,
            num_samples=self._sampling.num_samples,
            max_tokens=_QUESTION_TOKENS if rules.is_taught else _QUESTION_TOKENS_ELSEWHERE,
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
        language: str,
    ) -> list[_Candidate]:
        """Return the questions without a fault."""
        is_taught = language_rules(language).is_taught
        shorts = [
            without_topic(each.question, texts[each.text].topic) if is_taught else each.question for each in asked
        ]
        wordings = [*(each.question for each in asked), *shorts]
        best = best_texts(wordings, [f"{text.topic}\n{text.text}" for text in texts], language)
        kept = []
        for candidate, short, best_text, best_of_short in zip(
            asked, shorts, best[: len(asked)], best[len(asked) :], strict=True
        ):
            fault = question_fault(candidate.question, texts[candidate.text], language)
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
