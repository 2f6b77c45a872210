"""Rows that ask with passages at hand."""

from llamafarm_ray.data.augmentation.with_passages import (
    QUESTIONS_PER_ROW,
    ask_with_passages,
    ask_with_texts,
    rows_with_passages,
)

HOURS = "The mill opens at nine. Dogs wait outside."
PRICES = "A tour of the mill costs four euros. Children pay nothing."


def row(number, passage, answer, document="mill.md", question=None, fact=None):
    return {
        "id": f"{number:08x}",
        "messages": [
            {"role": "user", "content": question or f"Question {number}?"},
            {"role": "assistant", "content": answer},
        ],
        "document": document,
        "document_digest": "sha256:1",
        "passage": passage,
        "provenance": None,
        "fact": fact or answer,
    }


ROWS = [
    row(1, HOURS, "The mill opens at nine.", question="When does the mill open?"),
    row(2, HOURS, "Dogs wait outside.", question="Where do dogs wait?"),
    row(3, PRICES, "A tour of the mill costs four euros.", question="What does a tour cost?"),
    row(4, "Cats sleep.", "Cats sleep.", document="b.md"),
]


def contents(rows):
    return [[turn["content"] for turn in made["messages"]] for made in rows]


def test_questions_whose_answers_stand_in_the_same_excerpts_share_a_row():
    rows = list(rows_with_passages(ROWS))
    assert [len(turns) for turns in contents(rows)] == [6, 2]
    first = contents(rows)[0]
    asked = [first[0].rpartition("\n\nQuestion: ")[2], *first[2::2]]
    answers = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in ROWS}
    assert [answers[question] for question in asked] == first[1::2]
    assert [made["document"] for made in rows] == ["mill.md", "b.md"]


def test_no_text_of_another_document_gets_into_a_row():
    mill, cats = contents(rows_with_passages(ROWS))
    assert "Cats" not in mill[0]
    assert "mill" not in cats[0]


def test_the_sentence_that_supports_the_answer_is_always_shown():
    decoys = [row(9 + at, f"A bell rings {word} times.", f"{word}") for at, word in enumerate(("two", "ten", "six"))]
    hidden = row(1, "Entry is free.\nA bell. A bell rings. A bell rings here. A bell rings now.", "Entry is free.")
    hidden["messages"][0]["content"] = "How often does a bell ring?"
    made = contents(rows_with_passages([hidden, *decoys]))
    (prompt,) = [turns[0] for turns in made if turns[1] == "Entry is free."]
    assert "Entry is free." in prompt


def test_a_row_has_few_questions_and_each_fact_once():
    many = [
        row(number, HOURS, "Dogs wait outside.", fact=f"fact {number // 2}")
        for number in range(2 * QUESTIONS_PER_ROW + 2)
    ]
    rows = contents(rows_with_passages(many))
    assert [len(turns) // 2 for turns in rows] == [QUESTIONS_PER_ROW, 1]


def test_rows_are_the_same_each_time_and_the_seed_decides_what_shares_one():
    many = [row(number, f"{HOURS} {number}", f"Dogs wait outside. {number}") for number in range(20)]
    made = list(rows_with_passages(many))
    assert list(rows_with_passages(many)) == made
    assert list(rows_with_passages(many, seed=1)) != made


def test_the_prompt_has_an_instruction_the_excerpts_and_the_question():
    prompt = ask_with_passages("When does it open?", [HOURS, PRICES])
    instruction, *texts, question = prompt.split("\n\n")
    assert instruction.endswith(".")
    assert question == "Question: When does it open?"
    shown = "\n".join(texts).splitlines()
    assert len(shown) == 2
    assert shown[-1] == "The mill opens at nine."
    whole = ask_with_passages("When does it open?", [HOURS, PRICES], num_sentences=None)
    assert whole.split("\n\n")[1:3] == [HOURS, PRICES]


def test_texts_can_be_given_whole():
    assert ask_with_texts("When?", [HOURS, PRICES]).split("\n\n")[1:] == [HOURS, PRICES, "Question: When?"]
