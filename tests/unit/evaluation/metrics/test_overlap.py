import math

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from llamafarm_ray.evaluation.metrics import bleu, chrf, rouge_1, rouge_2, rouge_l

LANGUAGES = {
    "Japanese": "東京は日本の首都です。",
    "Russian": "Столица России - Москва.",
    "Arabic": "عاصمة مصر هي القاهرة.",
    "Thai": "กรุงเทพเป็นเมืองหลวงของไทย",
    "Hindi": "भारत की राजधानी नई दिल्ली है।",
    "Chinese": "北京是中国的首都。",
    "Korean": "서울은 한국의 수도이다.",
    "German": "für Größe",
    "number": "42",
    "word": "Paris.",
    "emoji": "🙂",
    "nothing": "",
    "spaces": " \n",
    "unpaired surrogate": "a\ud800",
}
ODD = ["", " ", "\x00", "\ud800", "🙂", "\u0301", "ff\u0000\u200b", "?!", "a" * 3000, "\n\n\t", "%s {} \\"]

by_language = pytest.mark.parametrize("text", LANGUAGES.values(), ids=LANGUAGES)


@by_language
def test_a_text_against_itself_has_the_full_score_in_any_language(text):
    assert (bleu([text], [[text]]), chrf([text], [[text]])) == (100, 100)
    assert rouge_1(text, [text]) == rouge_2(text, [text]) == rouge_l(text, [text]) == 1


@pytest.mark.parametrize("text", ["42", "Paris.", "東京は日本の首都です。", "ไทย", "भारत"])
def test_a_short_text_that_is_right_counts_full_beside_a_wrong_one(text):
    score = bleu([text, "one two"], [[text], ["three four five six"]])
    assert 0 < score < 100
    assert bleu([text, text], [[text], [text + " "]]) == 100


@by_language
def test_another_text_scores_nothing(text):
    other = "zzz qqq"
    assert bleu([other], [[text]]) == chrf([other], [[text]]) == 0
    assert rouge_1(other, [text]) == rouge_2(other, [text]) == rouge_l(other, [text]) == 0


def test_letters_with_accents_are_not_dropped():
    assert rouge_l("für", ["fär"]) == 0
    assert rouge_l("das ist für", ["das ist fär"]) == pytest.approx(2 / 3)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # 3 of 4 words of the answer, 3 of 6 of the reference, in order.
    assert rouge_l("a farm needs x", ["a big farm always needs water"]) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    # 3 of 4 characters: 東京 と は.
    assert rouge_l("東京とは", ["東京には"]) == pytest.approx(0.75)


def test_rouge_counts_words_and_pairs_of_words():
    # Words: 3 of 3 and 3 of 4. Pairs: "police killed" is in neither; "the gunman" is.
    assert rouge_1("the gunman police", ["police killed the gunman"]) == pytest.approx(6 / 7)
    assert rouge_2("the gunman police", ["police killed the gunman"]) == pytest.approx(2 * (1 / 2) * (1 / 3) / (5 / 6))


def test_the_best_reference_counts():
    assert rouge_l("a llama", ["an alpaca", "a llama"]) == 1
    assert bleu(["a llama is here"], [["an alpaca", "a llama is here"]]) == 100
    assert bleu(["a b c d", "e f g h"], [["a b c d"], ["x", "e f g h i"]]) > 80


def test_english_scores_are_those_of_the_reference_implementations():
    answers = ["The cat sat on the mat, quietly.", "He didn't see 3.5 km of road today at all."]
    references = ["The cat is sitting quietly on the mat.", "He did not see 3.5 km of the road today at all."]
    listed = [[one] for one in references]
    assert bleu(answers, listed) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert chrf(answers, listed) == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score)
    scorer = RougeScorer(["rougeL"])
    for answer, reference in zip(answers, references, strict=True):
        assert rouge_l(answer, [reference]) == scorer.score(reference, answer)["rougeL"].fmeasure


def test_bleu_of_two_bigrams_worked_by_hand():
    # Precisions 3/4 and 1/3; orders 3 and 4 match nothing and are smoothed: 1/(2*2) and 1/(4*1).
    expected = 100 * (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25
    assert bleu(["a b x d"], [["a b c d"]]) == pytest.approx(expected)


@pytest.mark.parametrize("answer", ODD)
@pytest.mark.parametrize("reference", ["", "?", "a reference", "東京", "\ud800"])
def test_odd_texts_have_finite_scores(answer, reference):
    for score, most in ((bleu, 100), (chrf, 100)):
        assert 0 <= score([answer], [[reference]]) <= most
    for score in (rouge_1, rouge_2, rouge_l):
        assert math.isfinite(score(answer, [reference]))
        assert 0 <= score(answer, [reference]) <= 1
