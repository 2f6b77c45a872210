import pytest

from llamafarm_ray.text.refusals import is_refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I don\u2019t know.",
        "As an AI language model, I have no opinion.",
        "The passages do not mention a price.",
        "Es tut mir leid, das weiß ich nicht.",
        "Je suis désolé, mais non.",
        "Lo siento, no puedo ayudar.",
        "Извините, я не могу помочь.",
        "抱歉,我无法回答。",
        "申し訳ありませんが、お答えできません。",
        "죄송합니다.",
        "عذرا، لا أستطيع المساعدة",
    ],
)
def test_refusals_in_many_languages(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    ["", "The can of paint is red.", "Paris.", "東京です。", "Sorrento lies in Italy.", "x" * 5000 + " I don't know."],
)
def test_answers_are_no_refusals(answer):
    assert not is_refusal(answer)
