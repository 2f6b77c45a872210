import pytest

from llamafarm_ray.data.search.corpus import read_corpus
from llamafarm_ray.data.search.retrieval import PassageIndex
from llamafarm_ray.errors import InputError

PASSAGES = ["The mill opens at nine.", "日本の首都は東京です。", "Столица России - Москва.", "?!", ""]


@pytest.mark.parametrize(
    ("question", "found"), [("When does the mill open?", 0), ("日本の首都は?", 1), ("Какая столица России?", 2)]
)
def test_the_passage_that_fits_best_comes_first_in_any_script(question, found):
    assert PassageIndex(PASSAGES).search(question, 2)[0][0] == found


def test_a_question_without_words_ranks_nothing_and_keeps_the_order():
    assert PassageIndex(PASSAGES).search("", 2) == [(0, 0.0), (1, 0.0)]
    assert len(PassageIndex(PASSAGES).search("mill", 99)) == len(PASSAGES)
    assert PassageIndex(PASSAGES[:1]).search("zebra", 2) == [(0, 0.0)]
    assert PassageIndex([]).search("mill", 2) == []


def test_a_passage_is_found_that_says_it_in_other_words():
    passages = [
        "The tower is a steel frame on a hill, and it is painted in spring.",
        "Guided walks cost seven euros.",
        "Every guest of the inn must sign the book.",
    ]
    assert PassageIndex(passages).search("What does joining a tour cost me?", 1)[0][0] == 1


def test_a_long_passage_is_found_by_its_nearest_sentence():
    other = "Bread is baked in the stone oven behind the yard, and it is sold at the gate on market days. "
    passages = [other * 2 + "Dogs are not let in.", other * 2 + "The cellar floods in spring.", other * 3]
    assert PassageIndex(passages).search("May I bring my puppy?", 1)[0][0] == 0


def test_a_long_passage_with_both_words_comes_before_a_short_one_that_repeats_one():
    year = (
        "It was built of oak in the year of the great flood, and its wheel still turns when the river is high enough. "
    )
    long = f"The mill stands below the weir. {year * 3}It sells flour."
    found = PassageIndex([long, "Mill, mill, mill.", "Bread is baked here each day."]).search(
        "Does the mill sell flour?", 1
    )
    assert found[0][0] == 0


def test_of_a_large_corpus_the_best_by_words_are_compared_by_meaning():
    passages = [f"Page {number} of the ledger lists barrels." for number in range(2000)]
    passages[1500] = "Guided walks cost seven euros.\nThey start at the gate, and cost nothing for children."
    index = PassageIndex(passages)
    assert index.search("How much money do guided walks cost?", 1)[0][0] == 1500
    assert index.search("ledger page 1999", 2)[0][0] == 1999
    assert {at for at, _ in index.search("walks", 5000)} == set(range(2000))


def test_a_corpus_is_read_document_by_document(tmp_path):
    (tmp_path / "b.md").write_text("# Inn\n\nThe inn burned in 1901.\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("The mill was built in 1832.\n", encoding="utf-8")
    corpus = read_corpus(tmp_path, passage_words=50)
    assert [passage.document for passage in corpus.passages] == corpus.documents == ["a.txt", "b.md"]
    assert corpus.passages[0].text == "The mill was built in 1832."
    assert read_corpus(str(tmp_path), passage_words=50).digest == corpus.digest
    assert not corpus.skipped


def test_a_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="no text"):
        read_corpus(tmp_path, passage_words=50)
