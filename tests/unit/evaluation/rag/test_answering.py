"""A model that is asked the prompts of an exam."""

import pytest
from adapters import greedy, make_adapter
from tiny_model import make_tiny_model

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.rag.run import ExamJob, answer_exam
from llamafarm_ray.models.tokenizer import load_tokenizer

PROMPTS = {"closed_book": ["What is a llama?", "How many legs?"], "gold": ["A llama is an animal.", None]}


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base")


def answers(base_model, adapter=None, prompts=PROMPTS, *, baseline=True, max_new_tokens=4):
    return answer_exam(ExamJob(base_model, adapter, prompts, max_new_tokens, baseline), lambda *_: None)


def test_model_and_base_are_asked_the_same_and_answer_by_themselves(base_model, tmp_path):
    adapter = make_adapter(base_model, tmp_path / "adapter", seed=3)
    found = answers(base_model, adapter)
    chats = load_tokenizer(base_model)
    for given, adapted in ((found.model, adapter), (found.baseline, None)):
        prompt = chats.apply_chat_template(
            [{"role": "user", "content": "How many legs?"}], tokenize=False, add_generation_prompt=True
        )
        assert given["closed_book"][1].text == greedy(base_model, adapted, prompt, 4)
        assert given["gold"][1] is None
        assert 1 <= given["gold"][0].num_tokens <= 4
    assert found.template.startswith("sha256:")
    assert answers(base_model).baseline is None


def test_a_prompt_that_is_too_long_is_not_asked(base_model):
    long = "word " * 400
    found = answers(base_model, prompts={"closed_book": ["What is a llama?", long]})
    assert found.model["closed_book"][0] is not None
    assert found.model["closed_book"][1] is None
    with pytest.raises(InputError, match="No question fits"):
        answers(base_model, prompts={"closed_book": [long]})


def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities(base_model):
    import torch
    from transformers import AutoModelForCausalLM

    (answer, _) = answers(base_model).model["closed_book"]
    tokenizer = load_tokenizer(base_model)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    turn = [{"role": "user", "content": "What is a llama?"}]
    ids = tokenizer.apply_chat_template(turn, tokenize=True, add_generation_prompt=True)["input_ids"]
    log_probs = []
    for _ in range(answer.num_tokens):
        with torch.inference_mode():
            step = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        log_probs.append(step.max().item())
        ids = [*ids, int(step.argmax())]
    assert answer.confidence == pytest.approx(torch.tensor(log_probs).mean().exp().item(), rel=1e-3)
