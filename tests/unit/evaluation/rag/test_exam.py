import math

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.rag.exam import CLOSED_BOOK, GOLD, RETRIEVED, CorpusPassage, Retrieval, make_exam
from llamafarm_ray.evaluation.rag.grading import Answer, mode_scores
from llamafarm_ray.evaluation.rag.questions import Question
from llamafarm_ray.evaluation.rag.result import exam_result
from llamafarm_ray.evaluation.result import EvaluationResult

CORPUS = [
    CorpusPassage("docs/mill.md", "The mill was built in 1832."),
    CorpusPassage("docs/mill.md", "A tour of the mill costs four euros."),
    CorpusPassage("docs/inn.md", "The inn was built in 1832 and burned in 1901."),
]
BUILT = Question("When was the mill built?", ("1832",), "mill.md")
BURNED = Question("When did the inn burn?", ("1901",))
PRICE = Question("What does a tour cost?", ("4 euros",), "docs/mill.md", ("Four euros a tour.",))


def prompt(asked, texts):
    return "|".join([*texts, asked])


PROMPTS = {RETRIEVED: prompt, GOLD: prompt}


def by_shared_words(question, k):
    words = set(question.lower().strip("?").split())
    scores = [(at, float(len(words & set(passage.text.lower().split())))) for at, passage in enumerate(CORPUS)]
    return sorted(scores, key=lambda one: -one[1])[:k]


def exam(*questions, corpus=CORPUS, k=2):
    return make_exam(questions, corpus, search=by_shared_words, make_prompt=PROMPTS, k=k)


def answers(**texts):
    return {mode: [None if text is None else Answer(text, 3, 0.1) for text in given] for mode, given in texts.items()}


def test_each_question_is_asked_alone_with_found_and_with_gold_passages():
    (asked,) = exam(BUILT)
    assert asked.prompts[CLOSED_BOOK] == BUILT.question
    assert asked.prompts[RETRIEVED].endswith(f"|{BUILT.question}")
    assert asked.prompts[GOLD] == f"{CORPUS[0].text}|{BUILT.question}"
    assert asked.document == "docs/mill.md"


def test_a_passage_is_relevant_if_it_holds_an_answer_in_the_questions_document():
    built, burned = exam(BUILT, BURNED, k=3)
    relevant = dict(zip(built.passages[RETRIEVED], built.relevant, strict=True))
    assert relevant[CORPUS[0]]
    assert not relevant[CORPUS[2]]  # another document's 1832
    assert dict(zip(burned.passages[RETRIEVED], burned.relevant, strict=True))[CORPUS[2]]
    assert GOLD not in burned.prompts  # its document is not named


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (CORPUS[:2], 1 / (1 + 1 / math.log2(3))),  # one of two that could be found
        ((CORPUS[1], CORPUS[0]), 1 / (1 + math.log2(3))),
        ((CORPUS[2], CORPUS[0]), 1),
        ((CORPUS[0],), 1 / (1 + 1 / math.log2(3))),  # asked for two, it gave one
        ((CorpusPassage("mill.md", "Built in 1832."), CORPUS[1]), 1),  # cut in other ways: no one knows how many
    ],
)
def test_a_ranking_is_measured_against_all_that_could_be_found(found, expected):
    question = Question("When was it built?", ("1832",))
    asked = make_exam(
        [question],
        CORPUS,
        search=by_shared_words,
        make_prompt=PROMPTS,
        k=2,
        found=[Retrieval(tuple(found), 0.0)],
    )
    scores = mode_scores(asked, answers(retrieved=["1832"]), RETRIEVED)
    assert scores["ndcg"] == pytest.approx(expected)


def test_context_of_the_question_is_its_gold():
    (asked,) = exam(PRICE)
    assert asked.prompts[GOLD] == f"Four euros a tour.|{PRICE.question}"


def test_without_a_corpus_questions_are_asked_closed_book():
    (asked,) = exam(BUILT, corpus=[])
    assert (list(asked.prompts), asked.relevant) == ([CLOSED_BOOK], None)


@pytest.mark.parametrize("document", ["mlil.md", "other.md"])
def test_a_document_that_the_corpus_lacks_is_refused(document):
    with pytest.raises(InputError, match=document):
        exam(Question("x?", ("y",), document))


def test_a_name_that_two_documents_share_is_refused():
    corpus = [CorpusPassage("a/x.md", "y"), CorpusPassage("b/x.md", "y")]
    with pytest.raises(InputError, match="has 2"):
        exam(Question("x?", ("y",), "x.md"), corpus=corpus)


def test_scores_and_rows_of_each_mode_beside_the_baselines():
    asked = exam(BUILT, BURNED)
    model = answers(closed_book=["In 1833.", "In 1901."], retrieved=["In 1832.", None], gold=["1832", None])
    baseline = answers(closed_book=["No idea.", "No idea."], retrieved=["In 1832.", "In 1901."], gold=["1832", None])
    digests = {"closed_book": {"weights": "sha256:1"}}
    result = exam_result(asked, model, baseline, model_id="bot:1.0.0", digests=digests)
    closed, retrieved, gold = (result.benchmarks[mode] for mode in ("closed_book", "retrieved", "gold"))
    assert (closed.metrics["accuracy"], closed.baseline["accuracy"], closed.improvement) == (0.5, 0, "+0.50")
    assert closed.digests == {"weights": "sha256:1"}
    assert (retrieved.num_examples, retrieved.num_skipped) == (1, 1)
    assert (gold.num_examples, gold.num_skipped, gold.metrics["faithfulness"]) == (1, 0, 1)
    assert closed.comparison["accuracy"]["verdict"] == "noise"
    assert result.rag_integration["retrieval_relevance"] == 1
    assert result.rag_integration["response_quality"] == result.rag_integration["rag_accuracy"] == 1
    assert result.rag_integration["latency_p95"].endswith("ms")
    built, burned = result.questions
    assert built["closed_book"]["model"]["accuracy"] == 0
    assert built["retrieved"]["model"]["answer"] == "In 1832."
    assert built["retrieved"]["passages"][0]["document"]
    assert "model" not in burned["retrieved"]
    assert burned["closed_book"]["baseline"]["answer"] == "No idea."
    assert [(one.benchmark, one.id) for one in result.answered if one.score == 1] == [
        ("closed_book", "2"),
        ("retrieved", "1"),
        ("gold", "1"),
    ]
    assert {one.baseline_answer for one in result.answered} == {"No idea.", "In 1832.", "1832"}
    assert EvaluationResult.from_dict(result.to_dict()) == result


def test_an_answer_to_a_whole_sentence_is_right_if_it_holds_its_content():
    question = Question("When was the mill built?", ("The mill was built in 1832.",), context=("x",), is_whole=True)
    right, wrong = (
        exam_result(
            exam(question, corpus=[]), answers(closed_book=[text]), None, model_id="bot", digests={}
        ).benchmarks["closed_book"]
        for text in ("1832", "In 1833 the mill was built.")
    )
    assert (right.metrics["accuracy"], wrong.metrics["accuracy"]) == (1, 0)
