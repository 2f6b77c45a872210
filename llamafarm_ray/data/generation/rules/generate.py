"""Questions and answers by rules: no model, no network, the same result every time. For English prose.

Answers are whole sentences (or table rows) of the document. Three sources, the best first:

0. statements that a pattern turns into a question, table rows and definitions, and headings that are questions;
1. sections as a whole: "What does the Staff Handbook say about holidays?".
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from llamafarm_ray.data.generation.rules.context import is_cut_off, is_no_topic, is_on_topic, leans_on_context
from llamafarm_ray.data.generation.rules.english import (
    ATTRIBUTE_NOUNS,
    CONTAINER_TITLES,
    COUNTLESS_NOUNS,
    DETERMINERS,
    DISCOURSE_TERMS,
    EMPTY_HEADS,
    FINITE_WORDS,
    IMPERATIVES,
    PREPOSITIONS,
    UNHELPFUL_HEADINGS,
)
from llamafarm_ray.data.generation.rules.expressions import DATE, MONEY, TIME
from llamafarm_ray.data.generation.rules.grammar import Lexicon, head_of, is_plural
from llamafarm_ray.data.generation.rules.questions import Question, questions_of
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.steps.base import Dropped, Step
from llamafarm_ray.data.text import language_name, num_words, sentences_of, text_digest

__all__ = ["NO_RULES", "GenerateByRules"]

_ENTRY = re.compile(r"(?P<term>[^\W_][^.:;?!\u2013]{1,60}): (?P<value>\S.*)")
_TABLE_ROW = re.compile(r"(?P<term>[^:;]{1,60}) \u2013 (?P<pairs>[^:;]{1,40}: .+)")
_MAX_TERM_WORDS = 6
_MIN_TOLD_WORDS = 4
_MAX_TOLD_TERM_WORDS = 4
_OPENING = re.compile(
    r"(?:introduction|overview|summary|about|abstract|preface|description|welcome|general)", re.IGNORECASE
)
_MAX_ANSWER_WORDS = 60
_MAX_ANSWER_SENTENCES = 3
_MAX_HEADING_WORDS = 12
_NUMBERING = re.compile(
    r"^(?:(?:chapter|section|part|step|appendix|annex)\s+)?"
    r"(?:(?:\d+(?:\.\d+)*|[A-Z](?:\.\d+)*|[IVX]+)[.):]|(?:\d+|[A-Z])(?:\.\d+)+)\s+",
    re.IGNORECASE,
)
_DESCRIBED = re.compile(r"(?:The|An?|Optional|Whether|Name|Number|[Tt]o) |[^\d]*\.$")
"""Explanation of a word in the place of a property's value: "The name of a frame.", "Core tint support."."""
_CODE = re.compile(r"[={}$|<>\\]")
_REASON = re.compile(r"\b(?:because|since|so|as|due|reasons?|therefore|to|allows?)\b", re.IGNORECASE)
_TALK = re.compile(r"\b(?:we|let's|let\u2019s|let us|us)\b", re.IGNORECASE)
_GLOSSARY = re.compile(r"\b(?:glossary|definitions|terms|vocabulary)\b", re.IGNORECASE)
_FROM_STATEMENT, _FROM_SECTION = 0, 1
_PROVENANCE = Provenance("rules")
_LANGUAGES = ("en", "")  # what is too short to tell is tried

NO_RULES = "no rules for"
"""Beginning of the reason to drop a passage in another language, before the language's name."""


class GenerateByRules(Step[Passage, Example]):
    """Makes examples from the passages of a document, each question in up to four phrasings."""

    name = "generate"

    def apply(self, rows: Iterable[Passage]) -> Iterator[Example | Dropped]:
        """See :meth:`Step.apply`; the passages of one document together, as they show how it writes its words."""
        passages = list(rows)
        english = [passage for passage in passages if passage.language in _LANGUAGES]
        lexicon = Lexicon.of(sentence for passage in english for sentence in sentences_of(passage.prose))
        sections = _Sections(lexicon)
        found = {passage: list(_from_passage(passage, lexicon)) for passage in english}
        answers: dict[str, set[str]] = defaultdict(set)
        for question, answer in itertools.chain.from_iterable(found.values()):
            answers[question.direct].add(answer)  # a question with several answers lacks what tells them apart
        for passage in passages:
            if passage.language not in _LANGUAGES:
                yield Dropped(f"{NO_RULES} {language_name(passage.language)}")
                continue
            examples = [
                *(
                    example
                    for question, answer in found[passage]
                    if len(answers[question.direct]) == 1
                    for example in _examples(passage, question, answer, _FROM_STATEMENT)
                ),
                *sections.examples(passage),
            ]
            yield from examples
            if not examples:
                yield Dropped("passage without a question")


def _from_passage(passage: Passage, lexicon: Lexicon) -> Iterator[tuple[Question, str]]:
    for line, before_code in passage.prose_lines():
        yield from _from_line(line, passage.title, lexicon, before_code=before_code)


def _examples(passage: Passage, question: Question, answer: str, rank: int) -> Iterator[Example]:
    fact = text_digest([question.direct, answer])
    for phrasing in dict.fromkeys(question.phrasings):
        messages = (Message("user", phrasing), Message("assistant", answer))
        yield Example(
            messages,
            passage.document,
            passage.document_digest,
            passage.with_headings,
            fact,
            passage.index,
            rank=rank,
            provenance=_PROVENANCE,
        )


def _from_line(line: str, title: str, lexicon: Lexicon, *, before_code: bool) -> Iterator[tuple[Question, str]]:
    """Questions with their answers from one block: a table row, a definition, or else its sentences."""
    if num_words(line) <= _MAX_ANSWER_WORDS:
        row, entry = _TABLE_ROW.fullmatch(line), _ENTRY.fullmatch(line)
        found = _from_row(row, lexicon) if row else _from_entry(entry, title, lexicon) if entry else ()
        answered = [(question, line) for question in found]
        if row or answered:
            yield from answered
            return
    for sentence in sentences_of(line):
        if not is_cut_off(sentence, before_code=before_code):
            for question in questions_of(sentence, lexicon):
                yield question, sentence


def _from_row(row: re.Match[str], lexicon: Lexicon) -> Iterator[Question]:
    """``Adult - Price: 12 euros; Valid: one day`` asks for each column: what is the price for Adult."""
    for pair in row["pairs"].split("; "):
        column, _, value = pair.partition(": ")
        is_name = row["term"][:1].isupper() or " " in row["term"]
        if value and _is_attribute(column) and is_name and len(row["term"]) > 1 and column[1:].islower():
            be, name, term = ("are" if is_plural(column) else "is"), lexicon.inline(column), row["term"]
            yield Question(f"What {be} the {name} for {term}?", f"what the {name} for {term} {be}")


def _from_entry(entry: re.Match[str], title: str, lexicon: Lexicon) -> Iterator[Question]:
    """``Height: 40 metres`` asks for what the title has; ``Adult ticket: 12 euros`` asks how much; and so on."""
    term, value = re.sub(r"^(?:The|An?|Our|Your)\s+", "", entry["term"].strip()), entry["value"]
    words = term.lower().split()
    if not words or len(words) > _MAX_TERM_WORDS or words[0] in DISCOURSE_TERMS or FINITE_WORDS.intersection(words):
        return
    if DETERMINERS.intersection(words[1:]) or words[-1] in DISCOURSE_TERMS or words[-1] in {"none", "availability"}:
        return
    if len(set(words)) < len(words) or term.count(",") > 1 or " or " in term:
        return
    if words[0] in PREPOSITIONS or words[0][0].isdigit() or words[-1] in UNHELPFUL_HEADINGS:
        return
    if len(words) > 1 and (words[0] in IMPERATIVES or words[-1].removesuffix("s") in EMPTY_HEADS):
        return
    inline = lexicon.inline(term) if term.replace(" ", "").replace("-", "").isalpha() else term
    plural = is_plural(term)
    be, pronoun = ("are", "they") if plural else ("is", "it")
    if _is_attribute(term):
        if _DESCRIBED.match(value) or _CODE.search(value) or FINITE_WORDS.intersection(value.lower().split()):
            return  # a list of words and their meanings, not of a thing and its properties
        whole = f"the {inline}{_of_title(term, title)}"
        yield Question(f"What {be} {whole}?", f"what {whole} {be}")
    elif re.match(MONEY, value):
        yield Question(
            f"How much {be} the {inline}?", f"how much the {inline} {be}", f"The {inline}: how much {be} {pronoun}?"
        )
    elif re.fullmatch(TIME, value) or re.fullmatch(DATE, value):
        yield Question(f"When {be} the {inline}?", f"when the {inline} {be}", f"The {inline}: when {be} {pronoun}?")
    elif _GLOSSARY.search(title):
        yield Question(f"What does \u201c{inline}\u201d mean?", f"what \u201c{inline}\u201d means")
    elif len(words) > 1 and not plural and term.split()[-1].islower() and re.match("(?:an?|the|our) ", value):
        yield Question(f"What is the {inline}?", f"what the {inline} is", f"The {inline}: what is it?")
    elif _is_told(term, value):
        yield Question(f"What does {_page(title)} say about {inline}?", f"what {_page(title)} says about {inline}")


def _is_told(term: str, value: str) -> bool:
    """Return True if ``value`` says something about ``term`` in words: neither is code, and none needs its page."""
    if (
        re.match(r"(?:see|as|same)\b", value)
        or "?" in value
        or value.endswith("...")
        or len(term.split()) > _MAX_TOLD_TERM_WORDS
    ):
        return False
    is_code = _CODE.search(value) or _CODE.search(term) or re.match(r"\d+ ", term)
    is_anything = {term.lower().removesuffix("s"), term.lower(), head_of(term)} & COUNTLESS_NOUNS
    num_small = sum(word.isalpha() and word.islower() for word in value.rstrip(".!").split())
    if len(value.split()) < _MIN_TOLD_WORDS and is_on_topic(term, value):
        return False  # "debug: debug messages"
    return not is_code and not is_anything and num_small > 1 and not leans_on_context(value, strict=False)


def _is_attribute(term: str) -> bool:
    is_words = term.replace(" ", "").replace("-", "").isalpha()
    return is_words and head_of(term) in ATTRIBUTE_NOUNS and not FINITE_WORDS.intersection(term.lower().split())


def _of_title(term: str, title: str) -> str:
    """Return the owner of an attribute: "" if the term names it ("desk extension" under the title "The front desk")."""
    title = _NUMBERING.sub("", title)
    words = set(term.lower().split())
    if _is_about_text(title) or any(character.isdigit() for character in title):
        return f" given in {_page(title)}"
    if words & PREPOSITIONS or words & {word.lower() for word in title.split()}:
        return ""
    first, _, rest = title.partition(" ")
    if first in ("The", "A", "An", "Our", "Your") and rest:
        return f" of {first.lower()} {rest}"
    return f" of the {title}" if rest and title.rsplit(maxsplit=1)[-1].islower() else f" of {title}"


def _is_about_text(title: str) -> bool:
    return title.rsplit(maxsplit=1)[-1].lower() in CONTAINER_TITLES


def _page(title: str) -> str:
    """A title as the one who says something: "the Staff Handbook", else "the page" and the title in quotes."""
    title = _NUMBERING.sub("", title)
    if not _is_about_text(title):
        return f"the page \u201c{title}\u201d"
    first, _, rest = title.partition(" ")
    return f"the {rest}" if first in ("The", "A", "An", "Our", "Your") and rest else f"the {title}"


class _Sections:
    """The question about a section as a whole, once per heading, answered by how the section starts."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._seen: set[tuple[str, ...]] = set()
        self._asked: set[str] = set()

    def examples(self, passage: Passage) -> Iterator[Example]:
        """At most one question (all its phrasings), only for the first passage of a section."""
        if passage.headings in self._seen:
            return
        self._seen.add(passage.headings)
        heading = _NUMBERING.sub("", passage.headings[-1]) if passage.headings else ""
        if heading.endswith("?"):
            # As it stands, in one phrasing: turning it round could break it.
            rank, question = _FROM_STATEMENT, Question(heading, "")
        else:
            rank, about = _FROM_SECTION, self._about(heading, passage)
            if about is None:
                return
            question = about
        answer = _start_of(passage)
        if not answer or question.direct in self._asked:
            return
        if rank == _FROM_STATEMENT and not _answers(heading, answer):
            return
        if rank == _FROM_SECTION and not is_on_topic(_topic_of(heading, passage, self._lexicon), answer):
            return
        self._asked.add(question.direct)
        yield from _examples(passage, question, answer, rank)

    def _about(self, heading: str, passage: Passage) -> Question | None:
        title = _page(passage.title)
        if num_words(heading) > _MAX_HEADING_WORDS or is_no_topic(heading):
            return None
        if _is_whole(heading, passage):
            if len(passage.headings) > 1 and heading != _NUMBERING.sub("", passage.title):
                return None  # the introduction of a part says little about the whole
            if heading and heading != _NUMBERING.sub("", passage.title) and not _OPENING.fullmatch(heading):
                return None
            return Question(f"What is {title} about?", f"what {title} is about")
        topic = _topic_of(heading, passage, self._lexicon)
        direct = f"What does {title} say about {topic}?"
        parents = [parent for parent in passage.headings[:-1] if parent != passage.title]
        if direct in self._asked and (not parents or _NUMBERING.sub("", parents[-1]).lower() == heading.lower()):
            return None
        if direct in self._asked:
            topic = f"{topic} under \u201c{parents[-1]}\u201d"
            direct = f"What does {title} say about {topic}?"
        return Question(direct, f"what {title} says about {topic}")


def _answers(question: str, answer: str) -> bool:
    """Return True if a heading is a whole question, and ``answer`` says more than yes, in words of the question."""
    asked = re.findall(r"\w{4,}", question.lower())
    shared = sum(is_on_topic(word, f"A {answer}") for word in asked)
    if question.lower().startswith("why ") and not _REASON.search(answer):
        return False
    ends_open = re.search(r"(?:ways|following|as follows|options|reasons)\.$", answer) or re.match(
        "I |See |There are a number of ", answer
    )
    return (
        bool(FINITE_WORDS.intersection(question.lower().split()))
        and num_words(answer) >= _MIN_TOLD_WORDS
        and (2 * shared >= len(asked) or answer.split(maxsplit=1)[0].lower() in IMPERATIVES)
        and not ends_open
    )


def _is_whole(heading: str, passage: Passage) -> bool:
    """Return True for the heading of the text itself, and one that says nothing, as "Introduction"."""
    return heading in ("", _NUMBERING.sub("", passage.title)) or heading.lower().split()[-1] in UNHELPFUL_HEADINGS


def _topic_of(heading: str, passage: Passage, lexicon: Lexicon) -> str:
    """Return what a section is about, as it looks inside a sentence; its title's words where it is the whole text."""
    if _is_whole(heading, passage):
        return _NUMBERING.sub("", passage.title)
    words = heading.rstrip(".:").split()
    if len(words) > 1 and heading.isupper():
        return heading.rstrip(".:").lower()
    # In Title Case only names keep their capitals, as far as the document tells.
    small = [word.lower() if index and word.lower() in lexicon.small else word for index, word in enumerate(words)]
    return lexicon.inline(" ".join(small))


def _start_of(passage: Passage) -> str:
    """The first sentences of the first paragraph, within the limits of an answer; "" if there is no prose."""
    line, before_code = next(passage.prose_lines(), ("", False))
    if _ENTRY.fullmatch(line) or _TABLE_ROW.fullmatch(line):
        return ""
    chosen: list[str] = []
    for sentence in sentences_of(line)[:_MAX_ANSWER_SENTENCES]:
        is_prose = sentence.endswith((".", "!")) and not is_cut_off(sentence, before_code=before_code)
        if not is_prose or leans_on_context(sentence, strict=False) or _TALK.search(sentence):
            break
        if num_words(" ".join([*chosen, sentence])) > _MAX_ANSWER_WORDS:
            break
        chosen.append(sentence)
    return " ".join(chosen)
