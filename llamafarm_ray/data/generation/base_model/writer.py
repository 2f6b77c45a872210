"""Write pairs with the base model: facts, questions for each, and an answer, every step checked by the next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamafarm_ray.data.generation.base_model.lessons import LESSON_LANGUAGES, heading_lines
from llamafarm_ray.data.generation.base_model.sampling import Line, LineSampler
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.generation.base_model.spans import (
    Text,
    answer_fault,
    asked_words,
    candidate_facts,
    question_fault,
    same_fact,
    texts_of,
)
from llamafarm_ray.data.generation.writer import Written
from llamafarm_ray.data.rows import Example, Message, Passage, Provenance
from llamafarm_ray.data.text import language_name, text_digest

__all__ = ["BaseModelWriter"]

_FACT_TOKENS, _QUESTION_TOKENS, _ANSWER_TOKENS = 16, 24, 40


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A question about a fact of the text with that index; the higher the score, the better."""

    text: int
    fact: str
    question: str
    score: float


class BaseModelWriter:
    """A `PairWriter` over a model that learned the lessons.

    A question is kept if the model, given the question and the text, finds the very fact that the question was
    written for. Its answer has to be supported by the text; else the text itself is the answer, where it stands alone.

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
        kept = self._best(self._checked(texts, self._asked(texts), owners, dropped))
        examples: dict[int, list[Example]] = defaultdict(list)
        for candidate, answer in zip(kept, self._answers(texts, kept), strict=True):
            owner, text = owners[candidate.text], texts[candidate.text]
            fault = answer_fault(answer.text, candidate.fact, text)
            if not fault:
                examples[owner].append(self._example(passages[owner], candidate, answer.text))
            elif text.stands_alone:
                examples[owner].append(self._example(passages[owner], candidate, text.text))
            else:
                dropped[owner][fault] += 1
        for index in range(len(passages)):
            yield Written(tuple(examples[index]), dropped[index])

    def _asked(self, texts: Sequence[Text]) -> list[_Candidate]:
        """Return all questions, unchecked, their scores from the question alone."""
        heads = [_head(text) for text in texts]
        proposals = self._sample([f"{head}Fact:" for head in heads], self._sampling.fact_samples, _FACT_TOKENS)
        asked = []
        for index, lines in enumerate(proposals):
            proposed = sorted(dict.fromkeys(lines), key=lambda line: -line.log_prob)
            asked += [(index, fact) for fact in candidate_facts(texts[index].text, [line.text for line in proposed])]
        prompts = [f"{heads[index]}Fact: {fact}\nQuestion:" for index, fact in asked]
        found = []
        for (index, fact), lines in zip(
            asked, self._sample(prompts, self._sampling.question_samples, _QUESTION_TOKENS), strict=True
        ):
            best: dict[str, float] = {}
            for line in lines:
                best[line.text] = max(line.log_prob, best.get(line.text, line.log_prob))
            found += [_Candidate(index, fact, question, score) for question, score in best.items()]
        return found

    def _checked(
        self,
        texts: Sequence[Text],
        asked: Sequence[_Candidate],
        owners: Sequence[int],
        dropped: dict[int, Counter[str]],
    ) -> list[_Candidate]:
        """Return the questions whose fact the model finds again, with the score of both ways."""
        fitting = []
        for candidate in asked:
            fault = question_fault(candidate.question, candidate.fact, texts[candidate.text])
            if fault:
                dropped[owners[candidate.text]][fault] += 1
            else:
                fitting.append(candidate)
        prompts = [f"{_head(texts[each.text])}Question: {each.question}\nFact:" for each in fitting]
        kept = []
        for each, found in zip(fitting, self._sampler.greedy(prompts, max_tokens=_FACT_TOKENS), strict=True):
            score = each.score + found.log_prob
            if not same_fact(each.fact, found.text):
                dropped[owners[each.text]]["another answer was found for the question"] += 1
            elif score < self._sampling.min_score:
                dropped[owners[each.text]]["question is unlikely"] += 1
            else:
                kept.append(_Candidate(each.text, each.fact, each.question, score))
        return kept

    def _best(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """Return the best questions of each fact; one that was asked about several facts has no single answer."""
        facts_of: dict[frozenset[str], set[tuple[int, str]]] = defaultdict(set)
        by_fact: dict[tuple[int, str], list[_Candidate]] = defaultdict(list)
        for candidate in candidates:
            facts_of[asked_words(candidate.question)].add((candidate.text, candidate.fact))
            by_fact[candidate.text, candidate.fact].append(candidate)
        kept: list[_Candidate] = []
        for group in by_fact.values():
            clear = [each for each in group if len(facts_of[asked_words(each.question)]) == 1]
            kept += sorted(clear, key=lambda each: (-each.score, each.question))[: self._sampling.phrasings]
        return kept

    def _answers(self, texts: Sequence[Text], kept: Sequence[_Candidate]) -> list[Line]:
        prompts = [f"{_head(texts[each.text])}Fact: {each.fact}\nQuestion: {each.question}\nAnswer:" for each in kept]
        return self._sampler.greedy(prompts, max_tokens=_ANSWER_TOKENS)

    def _sample(self, prompts: list[str], num_samples: int, max_tokens: int) -> list[list[Line]]:
        return self._sampler.sample(
            prompts,
            num_samples=num_samples,
            max_tokens=max_tokens,
            temperature=self._sampling.temperature,
            seed=self._sampling.seed,
        )

    def _example(self, passage: Passage, candidate: _Candidate, answer: str) -> Example:
        return Example(
            (Message("user", candidate.question), Message("assistant", answer)),
            passage.document,
            passage.document_digest,
            passage.text,
            fact=text_digest([passage.document, str(passage.index), str(candidate.text), candidate.fact]),
            passage_index=passage.index,
            provenance=self._provenance,
        )


def _head(text: Text) -> str:
    return heading_lines(text.topic, text.before, text.text)
