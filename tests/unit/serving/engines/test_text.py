"""Sampling draws as it is told, and pieces of text are whole letters without stop texts."""

import pytest
import torch
from tiny_model import make_tiny_tokenizer

from llamafarm_ray.serving.engines.base import SamplingParams
from llamafarm_ray.serving.engines.detokenizer import Detokenizer
from llamafarm_ray.serving.engines.sampling import Sampler, score

LOGITS = torch.tensor([0.5, 0.1, 0.3, 0.1]).log()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def draws(num=4000, **options):
    sample = Sampler(SamplingParams(max_tokens=1, seed=0, **options))
    counts = torch.bincount(torch.tensor([sample(LOGITS) for _ in range(num)]), minlength=4)
    return (counts / num).tolist()


def test_tokens_are_drawn_by_their_probability():
    assert draws() == pytest.approx([0.5, 0.1, 0.3, 0.1], abs=0.03)


def test_temperature_sharpens_and_zero_takes_the_most_probable():
    assert draws(temperature=0.5) == pytest.approx([0.25 / 0.36, 0.01 / 0.36, 0.09 / 0.36, 0.01 / 0.36], abs=0.03)
    assert draws(10, temperature=0.0) == [1, 0, 0, 0]


def test_top_p_and_top_k_cut_the_improbable_off():
    assert draws(top_p=0.6) == pytest.approx([0.625, 0, 0.375, 0], abs=0.03)
    assert draws(10, top_p=0.5) == [1, 0, 0, 0]
    assert draws(10, top_p=1e-9) == [1, 0, 0, 0]
    assert draws(top_k=2) == pytest.approx([0.625, 0, 0.375, 0], abs=0.03)


def test_a_seed_repeats_and_none_does_not():
    def drawn(seed):
        sample = Sampler(SamplingParams(max_tokens=1, seed=seed))
        return [sample(torch.zeros(1000)) for _ in range(8)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_log_probabilities_are_the_models_own_with_the_most_probable_ones():
    scored = score(2, LOGITS, 2)
    assert scored.logprob == pytest.approx(torch.tensor(0.3).log().item())
    assert [token for token, _ in scored.top] == [0, 2]
    assert score(2, LOGITS, None).logprob is None


def pieces(tokenizer, text, stop=()):
    letters = Detokenizer(tokenizer, tokenizer("user").input_ids, stop)
    said = []
    for token in tokenizer(text).input_ids:
        said.append(letters.add(token))
        if letters.is_stopped:
            return said, True
    return [*said, letters.finish()], False


@pytest.mark.parametrize("text", ["The capital of France is Paris.", "ä é 漢字 🦙", "  two  spaces\n"])
def test_the_pieces_are_the_text(tokenizer, text):
    said, _ = pieces(tokenizer, text)
    assert "".join(said) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in said)
    assert len(said) > 3


def test_bytes_that_are_no_letter_yet_are_held_back(tokenizer):
    letters = Detokenizer(tokenizer, [])
    tokens = tokenizer("🦙").input_ids
    assert len(tokens) == 4
    assert [letters.add(token) for token in tokens[:3]] == ["", "", ""]
    assert letters.finish() == ""


@pytest.mark.parametrize("stop", [["Paris"], ["France", " is Par"], ["s Paris."]])
def test_a_stop_text_and_what_follows_it_is_not_said(tokenizer, stop):
    text = "The capital of France is Paris. Yes."
    said, is_stopped = pieces(tokenizer, text, stop)
    assert is_stopped
    assert "".join(said) == text[: min(place for one in stop if (place := text.find(one)) >= 0)]


def test_the_beginning_of_a_stop_text_that_is_none_is_said_after_all(tokenizer):
    said, is_stopped = pieces(tokenizer, "France is Par", ["Paris"])
    assert not is_stopped
    assert "".join(said) == "France is Par"
    assert said[-1] == "Par"


def test_special_tokens_are_no_text(tokenizer):
    letters = Detokenizer(tokenizer, [])
    assert letters.add(tokenizer.convert_tokens_to_ids("<|im_end|>")) == ""
