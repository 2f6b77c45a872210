"""Retrievers of the user's own: an endpoint, and an embedding model for the retriever here."""

import json

import pytest
from retrieval_server import retrieval_server

from llamafarm_ray.config import parse_config
from llamafarm_ray.config.sections.retriever import Retriever
from llamafarm_ray.errors import AccessDeniedError, ConfigError, InfrastructureError, InputError, NotFoundError
from llamafarm_ray.evaluation.rag.exam import CorpusPassage, Retrieval, RetrievalFailure
from llamafarm_ray.evaluation.rag.grading import Answer
from llamafarm_ray.evaluation.rag.result import exam_result
from llamafarm_ray.storage import Location
from llamafarm_ray.workflows.evaluation.questions import exam_of_files
from llamafarm_ray.workflows.evaluation.retrieval import retrieve

QUESTIONS = ["When was the mill built?", "When did the inn burn?"]
CORPUS = [CorpusPassage("mill.md", "The mill was built in 1832."), CorpusPassage("inn.md", "The inn burned in 1901.")]


def ask(url, questions=QUESTIONS, k=2, home=None, passages=(), **settings):
    section = Retriever(url=url, **{"max_attempts": 2, **settings})
    return retrieve(section, questions, passages, k, home, first_wait_s=0.0)


def found(body):
    return {"passages": [{"text": f"About {body['query']}", "document": "a.md", "score": 0.5}, {"text": "b", "id": 7}]}


def test_a_retriever_gets_the_question_and_k_and_its_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("RETRIEVER_API_KEY", "secret")
    with retrieval_server(lambda _path, body: found(body)) as server:
        one, _ = ask(f"{server.url}/search").answers
    assert isinstance(one, Retrieval)
    assert one.passages == (CorpusPassage("a.md", f"About {QUESTIONS[0]}"), CorpusPassage("7", "b"))
    assert one.seconds > 0
    assert sorted(body["query"] for _, body in server.asked) == sorted(QUESTIONS)
    assert {(path, body["k"]) for path, body in server.asked} == {("/search", 2)}
    assert set(server.keys) == {"Bearer secret"}


def test_more_passages_than_asked_for_are_cut_and_none_is_an_answer():
    with retrieval_server(lambda _path, body: found(body) if "mill" in body["query"] else {"passages": []}) as server:
        one, other = ask(f"{server.url}/", k=1).answers
    assert (len(one.passages), other.passages) == (1, ())
    assert server.asked[0][0] == "/"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, {}), "no answer: HTTP 500"),
        ((400, {"error": "too long"}), "request refused: HTTP 400"),
        (b"not JSON", "answer is not of the form that was asked for"),
        ([], "answer is not of the form that was asked for"),
        ({"passages": [{"document": "a.md"}]}, "answer is not of the form that was asked for"),
        ({"passages": [{"text": None}]}, "answer is not of the form that was asked for"),
        ({"passages": "text"}, "answer is not of the form that was asked for"),
    ],
)
def test_a_question_without_an_answer_is_a_failure_with_a_reason(answer, reason):
    with retrieval_server(lambda _path, body: answer if "inn" in body["query"] else found(body)) as server:
        one, other = ask(server.url).answers
    assert isinstance(one, Retrieval)
    assert other == RetrievalFailure(reason)


def test_a_failure_that_passes_is_tried_again():
    attempts = []

    def answer(_path, body):
        attempts.append(body)
        return (503, {}) if len(attempts) == 1 else found(body)

    with retrieval_server(answer) as server:
        (one,) = ask(server.url, QUESTIONS[:1]).answers
    assert isinstance(one, Retrieval)
    assert len(attempts) == 2


@pytest.mark.parametrize(("status", "error"), [(401, AccessDeniedError), (404, NotFoundError)])
def test_a_failure_of_all_questions_stops_the_evaluation(status, error):
    with retrieval_server(lambda _path, _body: (status, {})) as server, pytest.raises(error):
        ask(server.url)


def test_a_run_that_was_killed_asks_nothing_twice_and_a_later_one_asks_again(tmp_path):
    home, broken = Location(tmp_path), {"inn"}

    def answer(_path, body):
        return (500, {}) if any(word in body["query"] for word in broken) else found(body)

    with retrieval_server(answer) as server:
        ask(server.url, home=home, max_attempts=1)
        broken.clear()
        again = ask(server.url, home=home)
        assert [isinstance(one, Retrieval) for one in again.answers] == [True, True]
        assert [body["query"] for _, body in server.asked].count(QUESTIONS[0]) == 1
        ask(server.url, home=home, k=1)
        assert [body["query"] for _, body in server.asked].count(QUESTIONS[0]) == 2, "another request"
        again.kept.clear()
        ask(server.url, home=home)
        assert [body["query"] for _, body in server.asked].count(QUESTIONS[0]) == 3, "its documents may be others now"


def test_answers_of_another_key_are_not_used(tmp_path, monkeypatch):
    with retrieval_server(lambda _path, body: found(body)) as server:
        for key in ("of one tenant", "of one tenant", "of another"):
            monkeypatch.setenv("RETRIEVER_API_KEY", key)
            ask(server.url, home=Location(tmp_path))
        assert [body["query"] for _, body in server.asked].count(QUESTIONS[0]) == 2


def test_answers_of_yesterday_and_damaged_ones_are_not_used(tmp_path):
    with retrieval_server(lambda _path, body: found(body)) as server:
        for number, text in enumerate(["{", json.dumps({"time": 0, "answer": {}}), "[]"]):
            ask(server.url, QUESTIONS[:1], home=Location(tmp_path))
            (file,) = (tmp_path / "retrieval-answers").rglob("*.json")
            file.write_text(text, encoding="utf-8")
            assert len(server.asked) == number + 1


def vectors_of(words):
    """An embedding model: a text's vector counts the words, and one more number keeps it from being zero."""

    def answer(_path, body):
        counted = [[float(text.lower().count(word)) for word in words] + [0.1] for text in body["input"]]
        rows = [{"index": at, "embedding": vector} for at, vector in enumerate(counted)]
        return {"data": rows[::-1]}

    return answer


def by_embeddings(url, questions=QUESTIONS, passages=CORPUS, home=None, k=1, **settings):
    given = {"model": "tiny", "base_url": f"{url}/v1", "max_attempts": 1, **settings}
    return retrieve(Retriever(embeddings=given), questions, passages, k, home, first_wait_s=0.0)


def test_an_embedding_model_finds_what_no_word_tells(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    passages = [CorpusPassage("a", "mammal of the farm"), CorpusPassage("b", "vessel of the sea")]
    synonyms = {"llama": "mammal", "ship": "vessel"}

    def answer(path, body):
        texts = [" ".join(synonyms.get(word, word) for word in text.split()) for text in body["input"]]
        return vectors_of(["mammal", "vessel"])(path, {"input": texts})

    with retrieval_server(answer) as server:
        settings = {"query_prefix": "query: ", "passage_prefix": "passage: "}
        answers = by_embeddings(server.url, ["a llama", "a ship"], passages, **settings).answers
    assert [one.passages[0].document for one in answers] == ["a", "b"]
    assert all(one.seconds > 0 for one in answers)
    inputs = [body["input"] for _, body in server.asked]
    assert ["passage: mammal of the farm", "passage: vessel of the sea"] in inputs
    assert ["query: a llama"] in inputs
    assert {(path, body["model"]) for path, body in server.asked} == {("/v1/embeddings", "tiny")}
    assert set(server.keys) == {"Bearer secret"}


@pytest.mark.parametrize(
    "bad", [(500, {}), {"data": []}, {"data": [{"embedding": ["x"]}]}, b'{"data": [{"embedding": [NaN, 1, 1]}]}']
)
def test_a_question_without_a_vector_is_a_failure(bad):
    good = vectors_of(["mill", "inn"])
    with retrieval_server(lambda path, body: bad if "burn?" in body["input"][0] else good(path, body)) as server:
        one, other = by_embeddings(server.url).answers
    assert one.passages[0].document == "mill.md"
    assert isinstance(other, RetrievalFailure)


def test_a_vector_of_another_length_is_a_failure():
    def answer(_path, body):
        return {"data": [{"embedding": [1.0] * (2 if "burn?" in text else 3)} for text in body["input"]]}

    with retrieval_server(answer) as server:
        _, other = by_embeddings(server.url).answers
    assert other == RetrievalFailure("vector has another length than the passages' 3")


def test_passages_without_vectors_stop_the_evaluation_and_those_that_arrived_are_kept(tmp_path):
    home = Location(tmp_path)
    passages = [CorpusPassage("a", f"passage {number}") for number in range(130)]
    broken = ["passage 70"]
    good = vectors_of(["7"])
    with retrieval_server(
        lambda path, body: (500, {}) if set(broken) & {*body["input"]} else good(path, body)
    ) as server:
        with pytest.raises(InfrastructureError, match=r"no vectors for passages of the corpus: no answer: HTTP 500"):
            by_embeddings(server.url, passages=passages, home=home)
        broken.clear()
        server.asked.clear()
        by_embeddings(server.url, passages=passages, home=home)
    asked = [text for _, body in server.asked for text in body["input"]]
    assert len([text for text in asked if text.startswith("passage")]) == 64, "the batch that failed"


def test_an_embedding_model_needs_a_corpus_and_a_server(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="no passages to search"):
        by_embeddings("http://127.0.0.1:9", passages=[])
    with pytest.raises(InputError, match="no endpoint is configured"):
        retrieve(Retriever(embeddings={"model": "tiny"}), QUESTIONS, CORPUS, 1, None)
    assert retrieve(Retriever(), QUESTIONS, CORPUS, 1, None) is None


@pytest.mark.parametrize(
    "url", ["http://ann:secret@host/search", "https://host/search?key=secret", "ftp://host", "host"]
)
def test_an_address_has_no_secret_in_it(url):
    with pytest.raises(ConfigError):
        parse_config({"evaluation": {"retriever": {"url": url}}})


def write_questions(folder):
    rows = [
        {"question": QUESTIONS[0], "answers": ["1832"], "document": "mill.md"},
        {"question": QUESTIONS[1], "answers": ["1901"]},
    ]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder / "q.jsonl")


def test_an_exam_by_a_retriever_needs_no_corpus_and_counts_its_failures(tmp_path):
    texts = {QUESTIONS[0]: [{"text": "Built in 1832.", "document": "x/mill.md"}, {"text": "1832!", "document": "b.md"}]}

    def answer(_path, body):
        return {"passages": texts[body["query"]]} if body["query"] in texts else (400, {})

    with retrieval_server(answer) as server:
        config = parse_config(
            {"evaluation": {"questions": write_questions(tmp_path), "retriever": {"url": server.url}}}
        )
        exam = exam_of_files(config, home=Location(tmp_path / "home"))
        texts[QUESTIONS[0]] = [{"text": "Built in 1832, they say.", "document": "mill.md"}]
        exam.kept.clear()
        other = exam_of_files(config, home=Location(tmp_path / "home"))
    built, burned = exam.asked
    assert built.relevant == (True, False), "the second one is another document's"
    assert built.prompts["retrieved"].count("1832") == 2
    assert (burned.failure, list(burned.prompts)) == ("request refused: HTTP 400", ["closed_book"])
    assert exam.data["retrieved"] != other.data["retrieved"], "other passages are other data"
    assert exam.data["closed_book"] == other.data["closed_book"]
    given = {"closed_book": [Answer("1832", 1, 0.1)] * 2, "retrieved": [Answer("1832", 1, 0.1), None]}
    scores = exam_result(exam.asked, given, None, model_id="bot", digests={}).benchmarks["retrieved"]
    assert (scores.num_examples, scores.num_skipped) == (1, 0)
    assert scores.failures == {"request refused: HTTP 400": 1}
    assert (scores.metrics["hit_rate"], scores.metrics["accuracy"]) == (1, 1)


def test_a_retriever_that_answers_nothing_has_a_reason_and_no_score(tmp_path):
    with retrieval_server(lambda _path, _body: (400, {})) as server:
        config = parse_config(
            {"evaluation": {"questions": write_questions(tmp_path), "retriever": {"url": server.url}}}
        )
        exam = exam_of_files(config)
    given = {"closed_book": [Answer("1832", 1, 0.1)] * 2}
    scores = exam_result(exam.asked, given, None, model_id="bot", digests={}).benchmarks["retrieved"]
    assert (scores.metrics, scores.failures) == ({}, {"request refused: HTTP 400": 2})
    assert scores.reason == "the retriever answered no question"
