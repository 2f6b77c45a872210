"""Questions and answers by rules: no model, no network, the same result every time. For English prose.

Answers are whole sentences (or table rows) of the document. Three sources, the best first:

0. statements that a pattern turns into a question, table rows and definitions, and headings that are questions;
1. sections as a whole: "What does the Staff Handbook say about holidays?".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llamafarm_ray.data.generation.rules.english import (
    ATTRIBUTE_NOUNS,
    CONTAINER_TITLES,
    DISCOURSE_TERMS,
    FINITE_WORDS,
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
_MAX_ANSWER_WORDS = 60
_MAX_ANSWER_SENTENCES = 3
_MAX_HEADING_WORDS = 12
_NUMBERING = re.compile(r"^(?:(?:chapter|section|part|step)\s+)?(?:\d+(?:\.\d+)*|[A-Z]|[IVX]+)[.):]\s+", re.IGNORECASE)
_DESCRIBED = re.compile(r"(?:The|An?|Optional|Whether|Name|Number) |[^\d]*\.$")
"""Explanation of a word in the place of a property's value: "The name of a frame.", "Core tint support."."""
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
        for passage in passages:
            if passage.language not in _LANGUAGES:
                yield Dropped(f"{NO_RULES} {language_name(passage.language)}")
                continue
            examples = [
                *(
                    example
                    for line in passage.prose.splitlines()
                    for question, answer in _from_line(line, passage.title, lexicon)
                    for example in _examples(passage, question, answer, _FROM_STATEMENT)
                ),
                *sections.examples(passage),
            ]
            yield from examples
            if not examples:
                yield Dropped("passage without a question")


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


def _from_line(line: str, title: str, lexicon: Lexicon) -> Iterator[tuple[Question, str]]:
    """Questions with their answers from one block: a table row, a definition, or else its sentences."""
    if num_words(line) <= _MAX_ANSWER_WORDS:
        row, entry = _TABLE_ROW.fullmatch(line), _ENTRY.fullmatch(line)
        found = _from_row(row, lexicon) if row else _from_entry(entry, title, lexicon) if entry else ()
        answered = [(question, line) for question in found]
        if row or answered:
            yield from answered
            return
    for sentence in sentences_of(line):
        for question in questions_of(sentence, lexicon):
            yield question, sentence


def _from_row(row: re.Match[str], lexicon: Lexicon) -> Iterator[Question]:
    """``Adult - Price: 12 euros; Valid: one day`` asks for each column: what is the price for Adult."""
    for pair in row["pairs"].split("; "):
        column, _, value = pair.partition(": ")
        if value and _is_attribute(column):
            be, name, term = ("are" if is_plural(column) else "is"), lexicon.inline(column), row["term"]
            yield Question(f"What {be} the {name} for {term}?", f"what the {name} for {term} {be}")


def _from_entry(entry: re.Match[str], title: str, lexicon: Lexicon) -> Iterator[Question]:
    """``Height: 40 metres`` asks for what the title has; ``Adult ticket: 12 euros`` asks how much; and so on."""
    term, value = re.sub(r"^(?:The|An?|Our|Your)\s+", "", entry["term"].strip()), entry["value"]
    words = term.lower().split()
    if not words or len(words) > _MAX_TERM_WORDS or words[0] in DISCOURSE_TERMS or FINITE_WORDS.intersection(words):
        return
    inline = lexicon.inline(term)
    plural = is_plural(term)
    be, pronoun = ("are", "they") if plural else ("is", "it")
    if _is_attribute(term):
        if _DESCRIBED.match(value):
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
    else:
        yield Question(f"What does {_page(title)} say about {inline}?", f"what {_page(title)} says about {inline}")


def _is_attribute(term: str) -> bool:
    return head_of(term) in ATTRIBUTE_NOUNS and not FINITE_WORDS.intersection(term.lower().split())


def _of_title(term: str, title: str) -> str:
    """Return the owner of an attribute: "" if the term names it ("desk extension" under the title "The front desk")."""
    words = set(term.lower().split())
    if words & PREPOSITIONS or words & {word.lower() for word in title.split()}:
        return ""
    if _is_about_text(title):
        return f" given in {_page(title)}"
    first, _, rest = title.partition(" ")
    if first in ("The", "A", "An", "Our", "Your") and rest:
        return f" of {first.lower()} {rest}"
    return f" of the {title}" if rest and title.rsplit(maxsplit=1)[-1].islower() else f" of {title}"


def _is_about_text(title: str) -> bool:
    return title.rsplit(maxsplit=1)[-1].lower() in CONTAINER_TITLES


def _page(title: str) -> str:
    """A title as the one who says something: "the Staff Handbook", else "the page" and the title in quotes."""
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
        answer = _start_of(passage.prose)
        if answer and question.direct not in self._asked:
            self._asked.add(question.direct)
            yield from _examples(passage, question, answer, rank)

    def _about(self, heading: str, passage: Passage) -> Question | None:
        title = _page(passage.title)
        if num_words(heading) > _MAX_HEADING_WORDS:
            return None
        if not heading or heading == passage.title or heading.lower().split()[-1] in UNHELPFUL_HEADINGS:
            if len(passage.headings) > 1 and heading != passage.title:
                return None  # the introduction of a part says little about the whole
            return Question(f"What is {title} about?", f"what {title} is about")
        topic = self._lexicon.inline(heading.rstrip(".:"))
        direct = f"What does {title} say about {topic}?"
        parents = [parent for parent in passage.headings[:-1] if parent != passage.title]
        if direct in self._asked and parents:
            topic = f"{topic} under \u201c{parents[-1]}\u201d"
            direct = f"What does {title} say about {topic}?"
        return Question(direct, f"what {title} says about {topic}")


def _start_of(text: str) -> str:
    """The first sentences of ``text``, within the limits of an answer; "" if the first alone is beyond them."""
    chosen: list[str] = []
    for sentence in sentences_of(text)[:_MAX_ANSWER_SENTENCES]:
        is_prose = sentence.endswith((".", "!", "?"))
        if not is_prose or num_words(" ".join([*chosen, sentence])) > _MAX_ANSWER_WORDS:
            break
        chosen.append(sentence)
    return " ".join(chosen)
