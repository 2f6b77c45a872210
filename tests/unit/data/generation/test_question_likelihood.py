"""Log-probabilities of questions after sentences, by a model that has learned to ask."""

import pytest

from llamafarm_ray.data.generation.base_model.ranking import LikelihoodJob
from llamafarm_ray.data.generation.base_model.texts import sentences_in_context
from llamafarm_ray.data.search.excerpts import SentenceIndex

HOURS = ("The Mill, Hours", "", "The mill opens at nine.")
QUESTIONS = ["When does it open?", "May I bring a dog, a cat and two parrots on a Sunday?", "Why?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def tiny(folder):
    import torch

    from llamafarm_ray.models.loading import load_model
    from llamafarm_ray.models.tokenizer import load_tokenizer

    return load_model(folder, dtype=torch.float32).eval(), load_tokenizer(folder)


def test_each_question_scores_in_a_batch_what_it_scores_read_alone(tiny):
    import torch

    from llamafarm_ray.data.generation.base_model.likelihood import QuestionLikelihood

    model, tokenizer = tiny
    text = tokenizer.encode(
        "Topic: The Mill, Hours\nText: The mill opens at nine.\nQuestion:", add_special_tokens=False
    )
    alone = []
    for question in QUESTIONS:
        line = tokenizer.encode(f" {question}\n", add_special_tokens=False)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([text + line])).logits[0, len(text) - 1 : -1]
        chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(line)[:, None])
        alone.append(float(chosen.sum()))
    found = QuestionLikelihood(model, tokenizer).score(HOURS, QUESTIONS)
    assert found == pytest.approx(alone, rel=1e-4)
    assert len(set(found)) == 3


def test_a_question_about_many_sentences_is_scored_in_their_order_and_each_text_is_read_once(folder, tiny, monkeypatch):
    from llamafarm_ray.data.generation.base_model import likelihood

    monkeypatch.setattr(likelihood, "load_student", lambda *_, **__: tiny)
    passages = ["Mill\nThe mill opens at nine. It closes at five.", "Inn\nThe inn burned."]
    job = LikelihoodJob.of(QUESTIONS, [passages, passages[:1], passages[::-1]], folder, None)
    assert job.sentences == [
        ("Mill", "", "The mill opens at nine."),
        ("Mill", "The mill opens at nine.", "It closes at five."),
        ("Inn", "", "The inn burned."),
    ]
    assert [places for _, places in job.asked] == [[0, 1, 2], [0, 1], [2, 0, 1]]
    told = []
    found = likelihood.likelihoods(job, lambda what, done: told.append((what, done)))
    scorer = likelihood.QuestionLikelihood(*tiny)
    for (question, places), scores in zip(job.asked, found, strict=True):
        assert scores == pytest.approx([scorer.score(job.sentences[at], [question])[0] for at in places], rel=1e-4)
    assert told[-1] == ("ranking sentences", 1.0)


def test_a_text_of_thousands_of_tokens_is_read_in_part(tiny):
    from llamafarm_ray.data.generation.base_model.likelihood import QuestionLikelihood

    scorer = QuestionLikelihood(*tiny)
    (score,) = scorer.score(("Table", "", "nine " * 5000), QUESTIONS[:1])
    assert score < 0


def test_sentences_have_the_one_that_they_point_back_to():
    found = sentences_in_context(
        "Mill", ["The mill opens at nine.", "It closes at five.", "Dogs wait outside.", "Yes."]
    )
    assert [before for _, before, _ in found] == ["", "The mill opens at nine.", "", ""]
    assert [text for _, _, text in found] == SentenceIndex(
        [f"Mill\n{' '.join(text for _, _, text in found)}"]
    ).sentences
