"""Rows that ask with passages at hand."""

from llamafarm_ray.data.with_passages import QUESTIONS_PER_ROW, ask_with_passages, rows_with_passages

HOURS, PRICES = "The mill opens at nine.", "A tour of the mill costs four euros."


def row(number, passage, fact=None, document="mill.md"):
    return {
        "id": f"{number:08x}",
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": f"{number}."},
        ],
        "document": document,
        "document_digest": "sha256:1",
        "passage": passage,
        "provenance": None,
        "fact": fact or f"fact {number}",
    }


def test_questions_about_a_passage_share_a_row_with_it_and_another_of_its_document():
    rows = list(rows_with_passages([row(1, HOURS), row(2, HOURS), row(3, PRICES), row(4, "Cats.", document="b.md")]))
    contents = [[turn["content"] for turn in made["messages"]] for made in rows]
    assert [len(turns) for turns in contents] == [4, 2, 2]
    for turns, question in zip(contents[:2], ("Question 1?", "Question 3?"), strict=True):
        assert HOURS in turns[0]
        assert PRICES in turns[0]
        assert turns[0].endswith(f"Question: {question}")
    assert contents[0][1:] == ["1.", "Question 2?", "2."]
    assert "mill" not in contents[2][0]
    assert [made["document"] for made in rows] == ["mill.md", "mill.md", "b.md"]


def test_a_row_has_few_questions_and_each_fact_once():
    many = [row(number, HOURS, fact=f"fact {number // 2}") for number in range(2 * QUESTIONS_PER_ROW + 2)]
    asked = [
        turn["content"] for made in rows_with_passages(many) for turn in made["messages"] if turn["role"] == "user"
    ]
    assert len(asked) == QUESTIONS_PER_ROW + 1
    assert len(list(rows_with_passages(many))) == 2


def test_the_place_of_the_answering_passage_varies_and_is_always_the_same_for_a_row():
    rows = [row(number, f"{HOURS} {number}") for number in range(20)]
    made = list(rows_with_passages(rows))
    first = [
        f"{HOURS} {number}" == turns["messages"][0]["content"].split("\n\n")[1] for number, turns in enumerate(made)
    ]
    assert 2 < sum(first) < 18
    assert list(rows_with_passages(rows)) == made


def test_the_prompt_has_an_instruction_the_passages_and_the_question():
    prompt = ask_with_passages("When does it open?", [HOURS, PRICES])
    assert prompt.split("\n\n")[1:] == [HOURS, PRICES, "Question: When does it open?"]
