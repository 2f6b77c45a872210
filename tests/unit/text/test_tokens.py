import pytest
from rouge_score.tokenize import tokenize

from llamafarm_ray.text.tokens import word_tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The quick, brown fox!", ["the", "quick", "brown", "fox"]),
        ("für Größe", ["für", "grösse"]),
        ("Привет, мир", ["привет", "мир"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("東京は日本", ["東", "京", "は", "日", "本"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("東京2024年", ["東", "京", "2024", "年"]),
        ("snake_case", ["snake", "case"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words_of_any_script(text, words):
    assert word_tokens(text) == words


def test_symbols_alone_are_kept_apart():
    assert word_tokens("🙂 ?") == ["🙂", "?"]
    assert word_tokens("🙂 yes") == ["yes"]


def test_one_text_in_two_unicode_forms_has_the_same_words():
    assert word_tokens("fu\u0308r \uff14\uff12") == word_tokens("für 42")


@pytest.mark.parametrize("text", ["It's 3.5 kg (or more); e-mail A_B!", "U.S. GDP: $1,000"])
def test_words_of_ascii_are_those_of_rouge_score(text):
    assert word_tokens(text) == tokenize(text, None)
