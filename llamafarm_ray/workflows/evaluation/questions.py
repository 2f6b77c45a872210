"""Questions about a corpus, asked to a model closed book, with retrieved and with gold passages."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llamafarm_ray.config import Config, Evaluation
from llamafarm_ray.data.augmentation.with_passages import ask_with_passages, ask_with_texts
from llamafarm_ray.data.search.corpus import read_corpus
from llamafarm_ray.data.search.excerpts import NUM_SENTENCES
from llamafarm_ray.data.search.retrieval import RETRIEVER, PassageIndex
from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.rag.exam import (
    CLOSED_BOOK,
    GOLD,
    MODES,
    RETRIEVED,
    AskedQuestion,
    CorpusPassage,
    MakePrompt,
    make_exam,
)
from llamafarm_ray.evaluation.rag.grading import ExamAnswers
from llamafarm_ray.evaluation.rag.questions import Question, questions_digest, read_questions
from llamafarm_ray.evaluation.rag.result import exam_result
from llamafarm_ray.evaluation.remote import run_on_ray
from llamafarm_ray.evaluation.result import EvaluationResult
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest
from llamafarm_ray.workflows.datasets.contamination import Decontamination
from llamafarm_ray.workflows.evaluation.kept_answers import KeptAnswers
from llamafarm_ray.workflows.evaluation.retrieval import retrieve

__all__ = ["QUESTIONS", "Exam", "exam_of_files", "exam_of_rows", "sentences_by_vectors"]

QUESTIONS = "questions"
"""Name of the set of ``evaluation.questions`` in notes on contamination."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Exam:
    """Questions that are ready to be asked.

    Args:
        data: digest of the questions, and of the passages searched, by mode.
        settings: digest of the settings by mode.
        kept: answers of a retriever of the user's own, to be cleared when the evaluation is done; None without any.
    """

    asked: list[AskedQuestion]
    data: Mapping[str, str]
    settings: Mapping[str, str]
    kept: KeptAnswers | None = None

    def ask(
        self,
        model: MeasuredModel,
        rival: MeasuredModel | None,
        *,
        model_id: str,
        max_new_tokens: int,
        digests: Mapping[str, str],
        on_progress: Progress | None = None,
    ) -> EvaluationResult:
        """Ask a model, and its base without the adapter or a rival. Needs a connected Ray.

        Args:
            rival: the model to compare with; None: the base without the adapter.
            digests: further ones, of weights and code.
            on_progress: called with a stage and the fraction of it that is done.

        Raises:
            UserError: a model is unusable, or no question fits it.
            ClusterError: Ray is not running, or the task was lost.
        """
        prompts = {
            mode: [asked.prompts.get(mode) for asked in self.asked]
            for mode in MODES
            if any(mode in asked.prompts for asked in self.asked)
        }
        settings = {"prompts": prompts, "max_new_tokens": max_new_tokens}

        def answers_of(asked: MeasuredModel, *, baseline: bool) -> ExamAnswers:
            more = {"model": asked, "baseline": baseline}
            asking = "llamafarm_ray.evaluation.rag.run:answer_settings"
            return cast(ExamAnswers, run_on_ray(asking, {**settings, **more}, on_progress))

        found = answers_of(model, baseline=rival is None)
        baseline = found.baseline if rival is None else answers_of(rival, baseline=False).model
        of_mode = {
            mode: {**digests, "template": found.template, "data": self.data[mode], "settings": self.settings[mode]}
            for mode in MODES
        }
        return exam_result(self.asked, found.model, baseline, model_id=model_id, digests=of_mode)


def exam_of_files(
    config: Config, decontamination: Decontamination | None = None, home: Location | None = None
) -> Exam | None:
    """Return the exam of ``evaluation.questions`` and ``evaluation.corpus``; None if there are no questions.

    Args:
        config: ``evaluation`` names the files.
        decontamination: leaves questions out; None leaves none out.
        home: keeps answers of a retriever of the user's own; None keeps none.

    Raises:
        InputError: a file is unusable, there is a corpus and no question, or no question is left.
    """
    settings = config.evaluation
    if settings.questions is None:
        if settings.corpus is not None:
            raise InputError("There is a corpus, and no question to ask about it.", hint="Give --questions.")
        if settings.retriever.url is not None and "rag_accuracy" not in settings.metrics:
            raise InputError("There is a retriever, and no question to ask it.", hint="Give --questions.")
        return None
    questions = read_questions(Path(settings.questions).expanduser())[: settings.max_examples]
    if decontamination is not None:
        questions = decontamination.clean(QUESTIONS, questions, [one.question for one in questions])
    passages: list[CorpusPassage] = []
    digest = ""
    if settings.corpus is not None:
        corpus = read_corpus(settings.corpus, passage_words=config.dataset.preprocessing.passage_words)
        if corpus.skipped:
            first = corpus.skipped[0]
            raise InputError(
                f"{len(corpus.skipped)} of the corpus's documents can't be read. {first.path}: {first.reason}",
                hint="Remove them, or name the others: what is retrieved must be known.",
            )
        passages = [CorpusPassage(passage.document, passage.with_headings) for passage in corpus.passages]
        digest = corpus.digest
    return _exam(config, questions, passages, digest, home)


def exam_of_rows(
    config: Config,
    rows: Sequence[Mapping[str, Any]],
    others: Iterable[Mapping[str, Any]],
    home: Location | None = None,
) -> Exam:
    """Return an exam of a dataset's held-out rows: their questions, about the dataset's passages.

    An answer is right if it holds all that the row's answer says.

    Args:
        config: ``evaluation`` says how many passages are retrieved.
        rows: rows that are asked, with ``messages``, ``passage`` and ``document``.
        others: rows whose passages can be found too.
        home: see `exam_of_files`.

    Raises:
        InputError: the rows have no passages.
    """
    questions = []
    for row in rows:
        turns = row["messages"]
        if not row.get("passage") or [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
            continue
        context, answer = (row["passage"],), turns[-1]["content"].strip()
        if answer and row["passage"] not in turns[-2]["content"]:
            questions.append(Question(turns[-2]["content"], (answer,), row["document"], context, is_whole=True))
    if not questions:
        raise InputError(
            "rag_accuracy can't be measured: no held-out example has the passage that it was made from.",
            hint="Give evaluation.questions and evaluation.corpus, or a dataset that `create-dataset` built.",
        )
    found = dict.fromkeys((row["document"], row["passage"]) for row in [*rows, *others] if row.get("passage"))
    passages = [CorpusPassage(document, text) for document, text in sorted(found)]
    digest = Digest.of(json.dumps(sorted(found)).encode())
    return _exam(config, questions, passages, digest, home)


def _exam(
    config: Config, questions: Sequence[Question], passages: Sequence[CorpusPassage], digest: str, home: Location | None
) -> Exam:
    index = PassageIndex([passage.text for passage in passages])
    settings = config.evaluation
    k = settings.retrieved_passages
    found = retrieve(settings.retriever, [one.question for one in questions], passages, k, home)
    answers = found.answers if found is not None else None
    ask = functools.partial(ask_with_passages, num_sentences=sentences_by_vectors(settings))
    prompts: dict[str, MakePrompt] = {RETRIEVED: ask, GOLD: ask_with_texts}
    asked = make_exam(questions, passages, search=index.search, make_prompt=prompts, k=k, found=answers)
    of_questions = questions_digest(questions)
    data: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for mode in MODES:
        parts: list[object] = [of_questions] if mode == CLOSED_BOOK else [of_questions, digest]
        said: dict[str, object] = {"mode": mode, "max_new_tokens": settings.max_new_tokens}
        if mode != CLOSED_BOOK:
            words = config.dataset.preprocessing.passage_words
            said |= {"retriever": RETRIEVER, "k": k, "passage_words": words}
        if mode == RETRIEVED:
            said["sentences"] = sentences_by_vectors(settings)
        if mode == RETRIEVED and found is not None:  # what it searches is not known, so what it found is the data
            said["retriever"] = found.retriever
            parts.append([[one.failure, [[held.document, held.text] for held in _retrieved(one)]] for one in asked])
        data[mode] = Digest.of(json.dumps(parts).encode())
        chosen[mode] = Digest.of(json.dumps(said, sort_keys=True).encode())
    return Exam(asked, data, chosen, found.kept if found is not None else None)


def sentences_by_vectors(settings: Evaluation) -> int | None:
    """Return the number of sentences of a prompt where vectors rank them; None for whole passages."""
    return NUM_SENTENCES if settings.retrieved_sentences == "auto" else settings.retrieved_sentences


def _retrieved(asked: AskedQuestion) -> Sequence[CorpusPassage]:
    return asked.passages.get(RETRIEVED, ())
