"""The rules ask for what a passage says, and for nothing that it does not answer."""

import pytest

from llamafarm_ray.data.generation.rules import GenerateByRules
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.types import Digest


def generate(text, headings=(), title="Harbour Museum"):
    passage = Passage("a.md", Digest.of(b""), title, tuple(headings), text, 0)
    ledger = Ledger()
    examples = list(GenerateByRules().run([passage], ledger))
    return examples, ledger.to_dict()["generate"]


def pairs(*arguments, **options):
    first = {}
    for example in generate(*arguments, **options)[0]:
        first.setdefault(example.fact, (example.question, example.answer))
    return list(first.values())


def test_answers_are_whole_sentences_of_the_passage():
    assert pairs("The pool opens at 9:00. It is warm.", ["Harbour Museum", "Pool"]) == [
        ("When does the pool open?", "The pool opens at 9:00."),
        (
            "What does the page \u201cHarbour Museum\u201d say about pool?",
            "The pool opens at 9:00. It is warm.",
        ),
    ]


def test_phrasings_share_their_fact_and_their_answer():
    examples, _ = generate("The pool opens at 9:00.", ["Harbour Museum", "Pool"])
    phrasings = [example for example in examples if example.rank == 0]
    assert len({example.fact for example in phrasings}) == 1
    assert len({example.answer for example in phrasings}) == 1
    assert len({example.id for example in phrasings}) == 4


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("Phone: 555 0100", "What is the phone of Harbour Museum?"),
        ("Opening hours: 08:00 to 18:00", "What are the opening hours of Harbour Museum?"),
        ("Museum motto: look twice", "What is the museum motto?"),
        ("Group ticket: 8 euros", "How much is the group ticket?"),
        ("Annual meeting: 24 January", "When is the annual meeting?"),
        ("Meeting point: the stone anchor", "What is the meeting point?"),
        ("Smoking: not allowed", "What does the page \u201cHarbour Museum\u201d say about smoking?"),
        ("Day ticket \u2013 Price: 12 euros", "What is the price for Day ticket?"),
    ],
)
def test_definitions_and_table_rows_are_asked_for(line, question):
    assert pairs(line)[0] == (question, line)


@pytest.mark.parametrize("line", ["color: Core tint support.", "name: The name of an existing frame."])
def test_a_word_and_its_meaning_are_no_property_of_the_title(line):
    assert pairs(line, title="Frame commands") == []


def test_a_handbook_gives_and_a_glossary_means():
    assert pairs("Phone: 555", title="Staff Handbook")[0][0] == "What is the phone given in the Staff Handbook?"
    assert pairs("Blob: a file", title="Glossary")[0][0] == "What does \u201cBlob\u201d mean?"


def test_a_note_is_no_definition():
    assert pairs("Note: bring a towel.") == []


def test_a_question_in_a_heading_is_asked_as_it_stands():
    found = pairs("Write to the office.", ["FAQ", "How do I get a refund?"], title="FAQ")
    assert found == [("How do I get a refund?", "Write to the office.")]


def test_a_passage_without_a_question_is_counted():
    examples, counts = generate("lorem ipsum dolor")
    assert examples == []
    assert counts["dropped"] == {"passage without a question": 1}


def test_a_thing_of_which_the_document_has_many_is_not_asked_for_alone():
    one = "The pump is kept in the shed."
    many = "Each pump has a number. The pump is kept in the shed."
    assert ("Where is the pump kept?", one) in pairs(one)
    assert all(question != "Where is the pump kept?" for question, _ in pairs(many))


def test_a_question_with_two_answers_in_a_document_is_not_asked():
    found = pairs("The museum opens at 9:00.\nThe museum opens at 11:00.\nThe museum closes at 17:00.")
    assert found == [("When does the museum close?", "The museum closes at 17:00.")]


def test_a_sentence_that_goes_on_in_code_is_no_answer():
    text = "The pump reads the file by a command like\n```\nread --all\n```"
    assert pairs(text) == []
    assert pairs("To reset the pump, use the red key, so you do\n```\nreset\n```") == []


@pytest.mark.parametrize(
    ("heading", "topic"),
    [
        ("4.2. Tide tables", "tide tables"),
        ("4.2.1 Tide tables", "tide tables"),
        ("B.2. Tide tables", "tide tables"),
        ("TIDE TABLES", "tide tables"),
    ],
)
def test_a_heading_is_asked_for_without_its_number_and_its_capitals(heading, topic):
    found = pairs("Tide tables hang in the hall.", ["2. Almanac", heading], title="2. Almanac")
    assert found[-1][0] == f"What does the page \u201cAlmanac\u201d say about {topic}?"


@pytest.mark.parametrize(
    ("heading", "text"),
    [
        ("Options", "The options of the club are sail and oar."),  # says nothing
        ("Mend the nets", "The nets are mended in May by the crew."),  # an order
        ("Mooring", "Mooring takes two people and a long rope."),
        ("Nets and sails", "Nets are mended in May by the crew."),  # half of it
        ("Sails", "This part tells of sails and their care."),  # points elsewhere
        ("Sails", "We now come to sails."),
        ("On deck", "On deck the crew keeps quiet."),
    ],
)
def test_no_question_about_a_heading_that_its_text_does_not_answer(heading, text):
    assert not [
        question for question, _ in pairs(text, ["Almanac", heading], title="Almanac") if "say about" in question
    ]


def test_a_heading_with_a_question_needs_its_answer():
    assert pairs("Yes, it is.", ["FAQ", "Is the bridge open in winter?"], title="FAQ") == []
    assert pairs("I like to sail at night.", ["FAQ", "How do I sail at night?"], title="FAQ") == []
    answer = "The bridge is open in winter and summer."
    found = pairs(answer, ["FAQ", "Is the bridge open in winter?"], title="FAQ")
    assert ("Is the bridge open in winter?", answer) in found


@pytest.mark.parametrize(
    "line",
    [
        "11 Depends: ${tide:Depends}, rope",  # a line of code
        "Title: Almanac",
        "Class: <none of them>",
        "In May 2020: the hull was painted red",
        "List of members: names of all members of the club",
        "rope or line, knot: tie the rope to the ring",
        "debug: debug messages",
        "mast: see the part about rigging and sails",
        "Contact: <crew at example dot org>",
    ],
)
def test_an_entry_of_code_or_without_words_is_not_asked_for(line):
    assert pairs(line, title="Almanac") == []


def test_a_small_name_of_a_row_is_not_asked_for():
    assert pairs("p \u2013 Type: char[]; Size: 4", title="Almanac") == []
