"""Statements become questions in right English, or none at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.data.generation.rules.grammar import (
    Lexicon,
    Subject,
    is_plural,
    participle,
    past,
    third_person,
    verb_forms,
)
from llamafarm_ray.data.generation.rules.patterns import PATTERNS
from llamafarm_ray.data.generation.rules.questions import _takes, questions_of

QUESTIONS = [
    # time
    ("The museum opens daily at 10 a.m.", "When does the museum open?"),
    ("The gates open at 8 o'clock.", "When do the gates open?"),
    ("The festival started in 1985.", "When did the festival start?"),
    ("The guide leaves the harbour at 9:30.", "When does the guide leave the harbour?"),
    ("The library is open from 9 to 17 on weekdays.", "When is the library open?"),
    ("Reception is open 24 hours a day.", "When is reception open?"),
    ("The annual meeting is held on the first Monday of June.", "When is the annual meeting held?"),
    ("The filter is cleaned every week.", "How often is the filter cleaned?"),
    ("Books must be returned within 14 days.", "When must books be returned?"),
    ("The warranty expires after 24 months.", "When does the warranty expire?"),
    ("The café serves breakfast from 7:00 to 10:30.", "When does the café serve breakfast?"),
    ("The mixed evening is on Saturday.", "When is the mixed evening?"),
    ("Our office opens at 9:00.", "When does your office open?"),
    ("Doors open an hour after sunset.", "When do doors open?"),
    ("Python 2.5 was released on 19 September 2006.", "When was Python 2.5 released?"),
    ("The default value of the timeout is 30.", "What is the default value of the timeout?"),
    # money, number, length
    ("A day ticket costs 12 euros.", "How much does a day ticket cost?"),
    ("Parking costs $5 per day.", "How much does parking cost?"),
    ("The deposit is 50 euros.", "How much is the deposit?"),
    ("Entry is free for children under six.", "How much is entry?"),
    ("The hotel has 45 rooms.", "How many rooms does the hotel have?"),
    ("The hall seats three hundred people.", None),
    ("The hall seats 300 people.", "How many people does the hall seat?"),
    ("The tour lasts two hours.", "How long does the tour last?"),
    ("Lost property is kept for six months.", "How long is lost property kept?"),
    ("The tower is 40 metres tall.", "How tall is the tower?"),
    ("The pump weighs 14 kg.", "How much does the pump weigh?"),
    ("The speed limit is 20 km/h.", "What is the speed limit?"),
    # who
    ("Maria Lopez is the director of the museum.", "Who is the director of the museum?"),
    ("The director is Maria Lopez.", "Who is the director?"),
    ("The marketing team is responsible for the newsletter.", "Who is responsible for the newsletter?"),
    ("Anna Berg leads the maintenance team.", "Who leads the maintenance team?"),
    ("The engineers check the engine.", "Who checks the engine?"),
    ("The bridge was built by John Roebling in 1883.", "Who built the bridge?"),
    ("Expense reports must be approved by the head of finance.", "Who must approve expense reports?"),
    ("Sick leave must be reported to the manager before 9:00.", "Who must sick leave be reported to?"),
    # where
    ("The ladder is kept in the shed behind the workshop.", "Where is the ladder kept?"),
    ("The first-aid kit is on the wall next to the entrance.", "Where is the first-aid kit?"),
    ("The nearest hospital is in Carrick Mole.", "Where is the nearest hospital?"),
    ("Books must be returned to the front desk.", "Where must books be returned?"),
    ("Your deposit is kept in a separate account.", "Where is my deposit kept?"),
    # what, how, why
    ("A blob is a file that is stored by its digest.", "What is a blob?"),
    ("HVAC stands for heating, ventilation and air conditioning.", "What does HVAC stand for?"),
    ("The valve is used to release pressure.", "What is the valve used for?"),
    ("The frame is made of steel.", "What is the frame made of?"),
    ("The lifeboat is called Constant Heart.", "What is the lifeboat called?"),
    ("The fire doors are painted grey.", "What colour are the fire doors painted?"),
    ("The kit contains a lamp, two batteries and a rope.", "What does the kit contain?"),
    ("Employees are entitled to 25 days of leave.", "What are employees entitled to?"),
    ("Visitors must wear a badge at all times.", "What must visitors do?"),
    ("Dogs may not enter the building.", "What may dogs not do?"),
    ("Guests cannot smoke in the rooms.", "What can guests not do?"),
    ("Medicines must be stored below 25 degrees.", "How must medicines be stored?"),
    ("Rooms can be booked online or by phone.", "How can rooms be booked?"),
    ("The trail is closed because the bridge is under repair.", "Why is the trail closed?"),
    ("To reset the pump, hold the red button for five seconds.", "How do you reset the pump?"),
    ("If the alarm sounds, leave the building.", "What should you do if the alarm sounds?"),
    ("If a book is late, a fee of one euro is due.", "What happens if a book is late?"),
]

REFUSED = [
    "It opens at 9:00.",  # a pronoun
    "This ticket costs 12 euros.",
    "Its roof is made of steel.",
    "There is a pool in the garden.",
    "The team that leads the project meets on Fridays.",  # a relative clause
    "The doors open and the show starts at 8 p.m.",  # two clauses
    "On Mondays, the pool opens at 10:00.",
    "However, the pool opens at 9:00.",
    "Usually the pool opens at 9:00.",
    "Check the valve is closed before starting.",  # an order
    "Why does the pool open at 9:00?",
    "The device is in operation.",  # no place
    "The rate is in accordance with the rules.",
    "Nothing costs 10 euros here.",
    "The opening times on Mondays are as follows:",
    "The pool (built in 1970) opens at 9:00.",
    "A friendly word.",
    "The user can then add a key.",  # nobody knows of what, away from the page
    "The default value is 1.",
    "The second one is the web server.",
    "If a key name is given (for example, K1) then the lock uses it.",  # a comma inside of brackets
    "The old lock never opens the gate.",  # a negation
    "To update the system, run",  # the code below is the answer
    "Version 3 is between 10-60% faster than version 2.",  # no place
    "The car is based on a truck frame.",
    "Choosing the right paint is an important decision.",  # an action has no definition
    "Anyone may join; what members pay (38 pounds a year) covers the heating.",
    # What can't be understood away from its page
    "The slide contains three notes.",
    "Each row consists of a key and a lamp.",
    "The first check is a look at the seal.",
    "The newly-painted hull contains the lamps.",
    "The remainder of the data is a list of boats.",
    "Several boats contain a stove.",
    "Longer ropes provide a better hold.",
    "Many harbours use a pilot.",
    "The Petrel carries this load twice.",
    "The Petrel also covers the second area.",
    "Table 3 lists the tides.",
    "4Sails cover the deck.",  # the mark of a footnote
    "Line 5 covers the costs.",
    "A list of all boats is kept in Section 4.2.",
    "A script is run weekly.",
    # Nobody's duty
    "The winch will lift the anchor.",
    "The form must name the owner.",
    "Boats can cross the bay.",
    "Care should be taken with the mast.",
    # No definition, or one of an action
    "Tar is also an important factor.",
    "Mending nets is a slow craft.",
    "Setting up a mast is the work of two.",
    "The most robust is the oak hull.",
    "Wood is the easiest to mend.",
    "X is a boat of the club.",
    # No consequence, or no condition of its own
    "If the crew is small, it is a good idea to wait.",
    "If set twice, the alarm rings longer.",
    "If you did so, the rope will break.",
    "If many boats arrive, the pilot calls a second crew.",
    "If no mooring is named, the guest berth is used.",
    "If a reef is seen, its place is written down.",
    "If a tide is low, see the harbour rules.",
    # Cut off, or only true with its rest
    "The road hardly needs a lamp.",
    "The rope is written in plain text.",
    "",
    "The pool " + "really " * 60 + "opens at 9:00.",  # longer than anybody asks
]


def direct(sentence):
    return next((question.direct for question in questions_of(sentence, Lexicon())), None)


@pytest.mark.parametrize(("sentence", "question"), QUESTIONS)
def test_a_statement_becomes_its_question(sentence, question):
    assert direct(sentence) == question


@pytest.mark.parametrize("sentence", REFUSED)
def test_no_question_rather_than_a_broken_one(sentence):
    assert direct(sentence) is None


def test_the_four_phrasings_of_a_question():
    (question,) = questions_of("The gates open at 8:00.", Lexicon())
    assert question.phrasings == (
        "When do the gates open?",
        "Can you tell me when the gates open?",
        "I'd like to know when the gates open.",
        "The gates: when do they open?",
    )


def test_a_person_is_never_called_it():
    (question,) = questions_of("The manager must approve every order.", Lexicon())
    assert question.phrasings[-1] == "Do you know what the manager must do?"


def test_what_is_said_twice_of_one_subject_gives_two_questions():
    found = questions_of("The library opens at 08:00 and closes at 18:00 on weekdays.", Lexicon())
    assert [question.direct for question in found] == ["When does the library open?", "When does the library close?"]


def test_a_name_gives_the_person_and_the_role():
    found = questions_of("Maria Lopez is the director of the museum.", Lexicon())
    assert [question.direct for question in found] == ["Who is the director of the museum?", "Who is Maria Lopez?"]


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            ["The", "a", "is", "are", "opens", "open", "at", "8:00", "in", "of", ",", "If", "to", "must", "by"]
        )
    ).map(" ".join)
)
def test_any_text_gives_whole_questions_or_none(text):
    for question in questions_of(text, Lexicon()):
        assert question.direct.endswith("?")
        assert question.direct[0].isupper()
        assert "  " not in question.direct.strip()
        assert "{" not in question.direct or "{" in text


def test_every_pattern_is_reached():
    """A line of the table that no statement reaches is dead."""
    reached = set()
    sentences = [sentence for sentence, _ in QUESTIONS] + [
        "The steam rule applies to everybody.",
        "The frame consists of two parts.",
        "The price depends on the season.",
        "The paper comes from Ghent.",
        "The exam takes place in Carrick Mole.",
        "The clock hangs in the hall.",
        "The minutes are pinned to the board.",
        "Food is forbidden at the long table.",
        "The ramp is lowered by two deckhands.",
        "The sawyer is a carpenter named Yusuf.",
        "The floor is polished with wax.",
        "The pause is two years.",
        "The motto is Read and mend.",
        "The deadline is 5 May.",
        "The fee is paid online.",
        "The order form must be signed.",
    ]
    for sentence in sentences:
        text = sentence.rstrip(".")
        for pattern in PATTERNS:
            match = pattern.statement.match(text)
            subject = match and Subject.parse(match["s"], Lexicon(), pattern.verbs[match["v"]].number)
            if subject and _takes(pattern.subject, subject):
                reached.add(pattern.name)
                if pattern.alone:
                    break
    assert {pattern.name for pattern in PATTERNS} == reached


# Grammar


@pytest.mark.parametrize(
    ("base", "forms"),
    [
        ("open", ("opens", "opened", "opened")),
        ("carry", ("carries", "carried", "carried")),
        ("play", ("plays", "played", "played")),
        ("stop", ("stops", "stopped", "stopped")),
        ("reach", ("reaches", "reached", "reached")),
        ("close", ("closes", "closed", "closed")),
        ("go", ("goes", "went", "gone")),
        ("have", ("has", "had", "had")),
        ("write", ("writes", "wrote", "written")),
        ("show", ("shows", "showed", "showed")),
        ("mix", ("mixes", "mixed", "mixed")),
    ],
)
def test_verb_forms(base, forms):
    assert (third_person(base), past(base), participle(base)) == forms


def test_a_form_leads_back_to_its_verb_and_number():
    forms = verb_forms(["open", "cost"])
    assert (forms["opens"].base, forms["opens"].auxiliary) == ("open", "does")
    assert forms["open"].auxiliary == "do"
    assert forms["opened"].auxiliary == "did"
    assert forms["cost"].auxiliary == "do"  # the present, where present and past look alike


@pytest.mark.parametrize(
    ("phrase", "plural"),
    [
        ("the gates of the park", True),
        ("the price of tickets", False),
        ("the bus", False),
        ("the glass", False),
        ("the museum and the shop", True),
        ("the children", True),
        ("the analysis", False),
        ("the captain's cabin", False),
    ],
)
def test_plural_nouns(phrase, plural):
    assert is_plural(phrase) is plural


def test_a_document_shows_which_words_are_names():
    lexicon = Lexicon.of(["We walk to Mole.", "The pike swims.", "Tea and Granite: Old words."])
    assert lexicon.inline("Mole gate") == "Mole gate"
    assert lexicon.inline("Pike") == "pike"
    assert lexicon.inline("HVAC unit") == "HVAC unit"
    assert lexicon.inline("The Petrel") == "the Petrel"
    assert lexicon.inline("Maria Lopez") == "Maria Lopez"


# Passages


# Questions that need their page, by kind


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("If the anchor drags, turn the wheel to port.", "What should you do if the anchor drags?"),
        ("If you lose a sail, you must tell the harbour office.", "What should you do if you lose a sail?"),
        ("If a boat is late, the harbour office calls its owner.", "What happens if a boat is late?"),
    ],
)
def test_advice_is_no_consequence(sentence, question):
    assert direct(sentence) == question


def test_paths_do_not_tell_how_a_name_is_written():
    lexicon = Lexicon.of(["Read petrel/rules and ./petrel now.", "The crew of Petrel sails."])
    assert lexicon.inline("Petrel") == "Petrel"
