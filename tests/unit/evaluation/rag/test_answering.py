"""A model that is asked the prompts of an exam."""

import pytest
from adapters import greedy, make_adapter

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.rag.run import ExamJob, answer_exam
from llamafarm_ray.models.tokenizer import load_tokenizer

PROMPTS = {"closed_book": ["What is a llama?", "How many legs?"], "gold": ["A llama is an animal.", None]}


def answers(base, adapter=None, prompts=PROMPTS, *, baseline=True, max_new_tokens=4):
    model = MeasuredModel(base, adapter, "w", "b")
    return answer_exam(ExamJob(model, prompts, max_new_tokens, baseline), lambda *_: None)


def test_model_and_base_are_asked_the_same_and_answer_by_themselves(base, tmp_path):
    adapter = make_adapter(base, tmp_path / "adapter", seed=3)
    found = answers(base, adapter)
    chats = load_tokenizer(base)
    for given, adapted in ((found.model, adapter), (found.baseline, None)):
        prompt = chats.apply_chat_template(
            [{"role": "user", "content": "How many legs?"}], tokenize=False, add_generation_prompt=True
        )
        assert given["closed_book"][1].text == greedy(base, adapted, prompt, 4)
        assert given["gold"][1] is None
        assert 1 <= given["gold"][0].num_tokens <= 4
    assert found.template.startswith("sha256:")
    assert answers(base).baseline is None


def test_a_prompt_that_is_too_long_is_not_asked(base):
    long = "word " * 400
    found = answers(base, prompts={"closed_book": ["What is a llama?", long]})
    assert found.model["closed_book"][0] is not None
    assert found.model["closed_book"][1] is None
    with pytest.raises(InputError, match="No question fits"):
        answers(base, prompts={"closed_book": [long]})


def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities_up_to_the_answers_end(base, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_tokenizer(base), AutoModelForCausalLM.from_pretrained(base)
    turn = [{"role": "user", "content": "What is a llama?"}]
    ids = tokenizer.apply_chat_template(turn, tokenize=True, add_generation_prompt=True)["input_ids"]
    said, log_probs = [], []
    for _ in range(2):
        with torch.inference_mode():
            step = model(torch.tensor([[*ids, *said]])).logits[0, -1].log_softmax(-1)
        log_probs.append(step.max().item())
        said.append(int(step.argmax()))
    monkeypatch.setattr("llamafarm_ray.evaluation.generation.end_of_turn_ids", lambda _: [said[1]])
    answer = answers(base).model["closed_book"][0]
    num_tokens = said.index(said[1]) + 1
    assert answer.num_tokens == num_tokens
    assert answer.confidence == pytest.approx(torch.tensor(log_probs[:num_tokens]).mean().exp().item(), rel=1e-3)
