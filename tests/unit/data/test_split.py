"""The split holds out phrasings of facts that stay in training, the same ones every time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.split import choose_split, hold_out, prompt_digest, split_existing
from llamafarm_ray.errors import InputError

ROWS = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.text("xyz", max_size=2), min_size=1).map(
    lambda rows: list(rows.items())
)
RATIOS = st.floats(0, 0.99)


@given(ROWS, RATIOS, st.integers(0, 3), st.randoms())
def test_the_order_of_rows_does_not_matter(rows, ratio, seed, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert choose_split(rows, ratio=ratio, seed=seed) == choose_split(shuffled, ratio=ratio, seed=seed)


@given(ROWS, RATIOS, st.integers(0, 3))
def test_each_fact_with_a_held_out_phrasing_is_trained_on(rows, ratio, seed):
    split = choose_split(rows, ratio=ratio, seed=seed)
    trained = {fact for row_id, fact in rows if row_id not in split.validation}
    if split.held_out == "phrasings":
        assert trained == {fact for _, fact in rows}
    if split.held_out == "facts":
        assert set(Counter(fact for _, fact in rows).values()) == {1}


@given(ROWS, st.floats(0.001, 0.99), st.integers(0, 3))
def test_both_sides_get_a_row_where_there_are_two(rows, ratio, seed):
    split = choose_split(rows, ratio=ratio, seed=seed)
    assert (0 < len(split.validation) < len(rows)) == (len(rows) > 1)


@given(ROWS, st.integers(0, 3))
def test_ratio_zero_holds_out_nothing(rows, seed):
    split = choose_split(rows, ratio=0, seed=seed)
    assert split.validation == frozenset()
    assert split.held_out == "nothing"


@st.composite
def corpora(draw):
    """Rows of 2 to 40 documents, of 1 to 4 examples each."""
    names = draw(st.sets(st.text("abcdef/.", min_size=1, max_size=8), min_size=2, max_size=40))
    return {name: draw(st.integers(1, 4)) for name in names}


def rows_of(corpus):
    return [
        (f"{document}-{number}", f"fact {document} {number}", document, f"{document} {number // 2}")
        for document, count in corpus.items()
        for number in range(count)
    ]


@given(corpora(), st.floats(0.01, 0.9), st.integers(0, 3), st.randoms())
def test_no_document_of_a_held_out_question_is_trained_on(corpus, ratio, seed, random):
    rows = rows_of(corpus)
    random.shuffle(rows)
    split = choose_split(rows, ratio=ratio, seed=seed, hold_out="documents")
    held_out = {row[2] for row in rows if row[0] in split.validation}
    assert split.held_out == "documents"
    assert held_out
    assert held_out != corpus.keys()
    assert held_out.isdisjoint(row[2] for row in rows if row[0] not in split.validation)


@given(corpora(), corpora(), st.integers(0, 3))
def test_more_documents_move_none_to_the_other_side(corpus, more, seed):
    def held_out(corpus):
        split = choose_split(rows_of(corpus), ratio=0.3, seed=seed, hold_out="documents")
        return {row[2] for row in rows_of(corpus) if row[0] in split.validation}

    # Two documents that lie on different sides whatever else there is.
    sides = {name: held_out({name: 1, **{f"anchor {n}": 1 for n in range(40)}}) for name in corpus}
    grown = {**more, **corpus, **{f"anchor {n}": 1 for n in range(40)}}
    assert {name for name in corpus if name in held_out(grown)} == {name for name in corpus if name in sides[name]}


def test_the_share_of_documents_is_about_the_ratio():
    rows = rows_of({f"doc-{number}.md": 2 for number in range(1000)})
    assert 160 < len(choose_split(rows, ratio=0.1, seed=0).validation) < 240


@pytest.mark.parametrize(
    ("num_documents", "phrasings", "options", "expected"),
    [
        (5, 3, {}, "phrasings"),
        (5, 3, {"hold_out": "documents"}, "documents"),
        (30, 3, {}, "documents"),
        (30, 3, {"hold_out": "phrasings"}, "phrasings"),
        (30, 1, {}, "documents"),
        (10, 1, {"ratio": 0.1}, "documents"),
        (3, 1, {"ratio": 0.1}, "passages"),  # a third of the corpus would be no tenth
        (3, 1, {"ratio": 0.1, "hold_out": "documents"}, "documents"),
        (1, 1, {}, "passages"),
        (1, 3, {"hold_out": "documents"}, "passages"),
        (5, 1, {"hold_out": "phrasings"}, "facts"),
    ],
)
def test_what_is_held_out_depends_on_the_corpus(num_documents, phrasings, options, expected):
    rows = [
        (f"{document}-{fact}-{phrasing}", f"{document}-{fact}", f"{document}.md", f"{document} {fact}")
        for document in range(num_documents)
        for fact in range(6)
        for phrasing in range(phrasings)
    ]
    split = choose_split(rows, **{"ratio": 0.2, "seed": 0, **options})
    assert split.held_out == expected
    assert 0 < len(split.validation) < len(rows)


def test_one_passage_leaves_whole_facts():
    rows = [(f"{fact}-{phrasing}", str(fact), "a.md", "one") for fact in range(10) for phrasing in range(2)]
    split = choose_split(rows, ratio=0.2, seed=0, hold_out="documents")
    held_out = {row[1] for row in rows if row[0] in split.validation}
    assert split.held_out == "facts"
    assert held_out.isdisjoint(row[1] for row in rows if row[0] not in split.validation)


def test_about_the_ratio_is_held_out_where_facts_have_phrasings_to_spare():
    rows = [(f"{fact}-{phrasing}", str(fact)) for fact in range(500) for phrasing in range(4)]
    assert 320 < len(choose_split(rows, ratio=0.2, seed=0).validation) < 480


PHRASED = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 4), min_size=1, max_size=20)


@given(PHRASED, PHRASED, st.integers(0, 3))
def test_more_facts_move_no_phrasing_to_the_other_side(facts, more, seed):
    def held_out(facts):
        anchors = {f"anchor {number}": 3 for number in range(20)}
        rows = [(f"{f}-{n}", f) for f, count in {**facts, **anchors}.items() for n in range(count)]
        return choose_split(rows, ratio=0.3, seed=seed).validation

    new = {fact: count for fact, count in more.items() if fact not in facts}
    before, after = held_out(facts), held_out({**facts, **new})
    assert {row for row in after if row.rpartition("-")[0] not in new} == before


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)), st.integers(0, 3))
def test_more_prompts_move_none_to_the_other_side(prompts, more, seed):
    def held_out(prompts):
        return hold_out([(str(one), f"prompt {one}") for one in {*prompts, *range(300, 340)}], ratio=0.3, seed=seed)

    assert {row for row in held_out(prompts | more) if int(row) not in more - prompts} == held_out(prompts)


def test_rows_that_name_documents_are_split_by_them_and_others_by_prompt():
    rows = [(f"{document}-{n}", f"{document}.md", f"{n}?") for document in range(10) for n in range(3)]
    split = split_existing(rows, ratio=0.3, seed=0)
    assert split.held_out == "documents"
    held_out = {document for row_id, document, _ in rows if row_id in split.validation}
    assert held_out.isdisjoint(document for row_id, document, _ in rows if row_id not in split.validation)
    by_prompt = split_existing([(row_id, "", prompt) for row_id, _, prompt in rows], ratio=0.3, seed=0)
    assert by_prompt.held_out == "facts"
    assert {row_id[-1] for row_id in by_prompt.validation} < {"0", "1", "2"}


def test_another_seed_holds_out_others():
    rows = [(f"{fact}-{phrasing}", str(fact)) for fact in range(100) for phrasing in range(4)]
    assert choose_split(rows, ratio=0.2, seed=0) != choose_split(rows, ratio=0.2, seed=1)


@given(ROWS.filter(lambda rows: len({prompt for _, prompt in rows}) > 1), RATIOS, st.integers(0, 3), st.randoms())
def test_rows_with_one_prompt_are_held_out_together_whatever_their_order(rows, ratio, seed, random):
    held_out = hold_out(rows, ratio=ratio, seed=seed)
    trained = {prompt for row_id, prompt in rows if row_id not in held_out}
    assert held_out
    assert trained
    assert trained.isdisjoint(prompt for row_id, prompt in rows if row_id in held_out)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert hold_out(shuffled, ratio=ratio, seed=seed) == held_out


def test_about_as_many_rows_are_held_out_as_are_asked_for():
    rows = [(str(index), f"prompt {index}") for index in range(1000)]
    assert 160 < len(hold_out(rows, ratio=0.2, seed=0)) < 240
    assert hold_out(rows, ratio=0.2, seed=0) != hold_out(rows, ratio=0.2, seed=1)


def test_nothing_can_be_held_out_of_one_prompt():
    with pytest.raises(InputError, match="at least two different prompts"):
        hold_out([("a", "x"), ("b", "x")], ratio=0.5, seed=0)


def test_the_prompt_is_what_comes_before_the_last_answer():
    user, one, two = ({"role": role, "content": text} for role, text in (("user", "Q?"), *[("assistant", "A")] * 2))
    assert prompt_digest({"messages": [user, one]}) == prompt_digest({"messages": [user, {**two, "content": "B"}]})
    assert prompt_digest({"messages": [user]}) == prompt_digest({"messages": [user, one]})
    assert prompt_digest({"messages": [{**user, "content": "R?"}]}) != prompt_digest({"messages": [user]})
    assert prompt_digest({"anchor": "a", "positive": "b"}) == prompt_digest({"anchor": "a", "positive": "c"})
