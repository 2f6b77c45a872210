"""Excerpts: the sentences of passages that fit a question best."""

from llamafarm_ray.data.search.excerpts import NUM_SENTENCES, SentenceIndex, excerpts

HOURS = "The mill, Opening hours\nThe mill opens at nine in the morning. Dogs wait outside. The café sells soup."
PRICES = "The mill, Prices\nA tour costs four euros. Children under six pay nothing."


def test_the_sentences_that_fit_stand_below_their_headings_the_best_one_last():
    shown = excerpts("When does the mill open?", [HOURS, PRICES], num_sentences=2)
    assert shown[-1].splitlines()[0] == "The mill, Opening hours"
    assert shown[-1].splitlines()[-1] == "The mill opens at nine in the morning."
    assert sum(len(text.splitlines()) - 1 for text in shown) == 2


def test_no_more_sentences_are_shown_than_asked_for_and_none_twice():
    sentences = [line for text in excerpts("What does a tour cost?", [HOURS, PRICES]) for line in text.splitlines()]
    below = [line for line in sentences if not line.startswith("The mill, ")]
    assert len(below) == len(set(below)) == NUM_SENTENCES
    assert below[-1] == "A tour costs four euros."


def test_a_sentence_after_which_the_question_is_likely_comes_first():
    index = SentenceIndex([HOURS, PRICES])
    question = "How much do I have to pay for two kids?"
    likelihoods = [-40.0] * len(index.sentences)
    likelihoods[index.sentences.index("A tour costs four euros.")] = -12.0
    assert index.sentences[index.nearest(question, 1)[0]] == "Children under six pay nothing."
    assert index.nearest(question, 1, [-20.0] * len(index.sentences)) == index.nearest(question, 1)
    (shown,) = excerpts(question, [HOURS, PRICES], 1, likelihoods)
    assert shown == "The mill, Prices\nA tour costs four euros."


def test_sentences_of_a_passage_that_follow_each_other_share_its_heading():
    index = SentenceIndex([HOURS, PRICES])
    assert index.shown([3, 1, 0]) == [
        "The mill, Opening hours\nThe mill opens at nine in the morning.\nDogs wait outside.",
        "The mill, Prices\nA tour costs four euros.",
    ]
    assert [text.splitlines()[0] for text in index.shown([0, 3, 1])] == [
        "The mill, Opening hours",
        "The mill, Prices",
        "The mill, Opening hours",
    ]


def test_of_equal_sentences_that_of_the_nearer_passage_comes_first():
    harbor, mill = "Boats are moored at the harbor. It opens at nine.", "Bread is baked in the mill. It opens at nine."
    index = SentenceIndex([harbor, mill])
    ranked = index.nearest("When does the mill open for bread?", 4)
    assert ranked.index(3) < ranked.index(1)


def test_the_sentence_with_the_rare_words_of_an_answer_supports_it():
    index = SentenceIndex([HOURS, PRICES])
    assert index.sentences[index.supporting("Children under six pay nothing for a tour.", 1)].startswith("Children")
    assert index.sentences[index.supporting("At nine.", 0)].startswith("The mill opens")
    assert index.supporting("No word of it", 1) == 3


def test_a_passage_without_a_heading_is_text_from_its_first_line_on():
    lines = "First the bell rings.\nThen the door opens."
    assert excerpts("When does the bell ring?", [lines]) == ["Then the door opens.\nFirst the bell rings."]
    assert excerpts("What rings?", ["One sentence alone."]) == ["One sentence alone."]


def test_passages_in_other_scripts_are_cut_at_their_own_marks():
    text = "图书馆\n图书馆九点开门。儿童免费。咖啡馆卖汤。停车要两欧元。狗在外面等。"
    (shown,) = excerpts("停车多少钱?", [text], num_sentences=2)
    assert shown.splitlines()[0] == "图书馆"
    assert len(shown.splitlines()) == 3


def test_without_passages_there_are_no_excerpts_and_without_words_the_first_sentences():
    assert excerpts("When?", []) == []
    assert excerpts("", ["Only this."]) == ["Only this."]
