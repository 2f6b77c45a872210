"""The base model writes in the language of a passage, by rules of that language and never by English ones."""

# ruff: noqa: RUF001 - full width marks

import pytest

from llamafarm_ray.data.generation.base_model.languages import EXAMPLE_LANGUAGES, language_rules
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.generation.base_model.texts import Text, question_fault, texts_of
from llamafarm_ray.data.generation.base_model.uniqueness import best_texts
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.text.languages import language_of
from llamafarm_ray.types import Digest

PASSAGES = {
    "de": ("Stadtmuseum", "Eine Führung durch das Stadtmuseum kostet 4,50 Euro und dauert vierzig Minuten."),
    "fr": ("Musée", "La visite du musée coûte 4,50 euros et dure quarante minutes."),
    "es": ("Molino", "La visita del molino cuesta 4,50 euros y dura cuarenta minutos."),
    "zh": ("水磨坊", "参观水磨坊的门票每人四十五元，时间约四十分钟。"),
    "ja": ("水車小屋", "水車小屋の見学料は四百五十円で、四十分ほどかかります。"),
    "pl": ("Muzeum", "Wycieczka po muzeum kosztuje 4,50 euro i trwa czterdzieści minut."),
}
GOOD = {
    "de": "Wie viel kostet eine Führung durch das Stadtmuseum?",
    "fr": "Combien coûte la visite du musée ?",
    "es": "¿Cuánto cuesta la visita del molino?",
    "zh": "水磨坊的门票多少钱？",
    "ja": "水車小屋の見学料はいくらですか？",
    "pl": "Ile kosztuje wycieczka po muzeum?",
}


class Sampler:
    """Gives the same lines for each prompt, and keeps the prompts."""

    def __init__(self, *lines):
        self.lines, self.prompts = lines, []

    def sample(self, prompts, **_):
        from llamafarm_ray.data.generation.base_model.sampling import Line

        self.prompts += prompts
        return [[Line(line, -0.2) for line in self.lines] for _ in prompts]


def write(sampler, *languages):
    from llamafarm_ray.data.generation.base_model.writer import BaseModelWriter

    passages = [
        Passage(f"{code}.md", Digest.of(b""), PASSAGES[code][0], (), PASSAGES[code][1], 0, 1, language=code)
        for code in languages
    ]
    return list(BaseModelWriter(sampler, Sampling(), Provenance("base_model")).write(passages))


@pytest.mark.parametrize("language", PASSAGES)
def test_a_question_in_the_language_of_its_passage_is_kept_and_the_passage_answers_it(language):
    english = "How much does the guided tour of the museum cost for each of the visitors?"
    (written,) = write(Sampler(GOOD[language], english), language)
    assert [(each.question, each.answer) for each in written.examples] == [(GOOD[language], PASSAGES[language][1])]
    assert sum(count for reason, count in written.dropped.items() if "is in English, not in" in reason) == 1


def test_passages_of_several_languages_are_asked_each_with_its_own_examples():
    sampler = Sampler()
    written = write(sampler, "de", "ja", "de", "pl")
    assert [len(one.examples) for one in written] == [0, 0, 0, 0]
    openings = [prompt.split("\n", 1)[0] for prompt in sampler.prompts]
    assert openings[:2] == ["Topic: Stadtbad Lindenau, Eintritt"] * 2
    assert openings[2:] == ["Topic: みどり図書館、利用案内", "Topic: Muzeum"]
    assert all(prompt.endswith("Question:") for prompt in sampler.prompts)


@pytest.mark.parametrize("language", EXAMPLE_LANGUAGES)
def test_examples_are_in_their_language_and_have_no_fault(language):
    rules = language_rules(language)
    texts = []
    for block in rules.examples.strip().split("\n\n"):
        topic, text, *questions = (line.partition(": ")[2] for line in block.split("\n"))
        texts.append(text)
        for question in questions:
            assert question_fault(question, Text(topic, "", text), language) == "", question
    assert len(texts) >= 5
    assert language_of("\n".join(texts)) == language


@pytest.mark.parametrize(
    ("language", "text", "has_before"),
    [
        ("de", "Die Mühle steht am Bach. Sie wurde 1742 gebaut.", True),
        ("de", "Die Mühle steht am Bach. It wurde 1742 gebaut.", False),
        ("en", "The mill is old. It was built in 1742.", True),
        ("zh", "水磨坊在河边。它建于1742年。", True),
        ("pl", "Młyn stoi nad rzeką. Zbudowano go w 1742 roku.", False),
    ],
)
def test_a_sentence_points_back_by_the_words_of_its_language(language, text, has_before):
    last = texts_of("Mill", (), text, language)[-1]
    assert bool(last.before) == has_before
    assert (last.answer == text) == has_before


@pytest.mark.parametrize(
    ("language", "question", "fault"),
    [
        ("de", "Wie viel kostet eine Führung im Jahr 1999?", "name or number"),
        ("de", "Wer leitet die Bäckerei am Hafen?", "something else"),
        ("de", "Eine Führung durch das Stadtmuseum", "no question"),
        ("fr", "Combien coûte la visite du musée avec Claudine ?", "name or number"),
        ("zh", "面包店的电话号码是什么？", "something else"),
        ("ja", "パン屋の電話番号は何番ですか？", "something else"),
    ],
)
def test_a_question_that_does_not_fit_is_refused(language, question, fault):
    title, text = PASSAGES[language]
    (found,) = texts_of(title, (), text, language)
    assert fault in question_fault(question, found, language)


def test_the_text_that_a_question_fits_best_is_found_in_scripts_without_spaces():
    texts = ["图书馆周一休息。", "游泳馆的票价是三十元。", "石桥长八十五米。"]
    assert best_texts(["游泳馆的票价是多少？", "石桥有多长？", "图书馆星期几休息？"], texts, "zh") == [1, 2, 0]
