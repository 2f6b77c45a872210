"""Code keeps its lines from the reader to the passage and becomes no question; passages know their page."""

from document_files import read

from llamafarm_ray.data.generation.rules import GenerateByRules
from llamafarm_ray.data.parsed import ParsedDocument, Passage, Section, fenced, is_code
from llamafarm_ray.data.readers.base import Outline
from llamafarm_ray.data.steps import Clean, Ledger, SplitPassages
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"")


def passages(document, words=60):
    return list(SplitPassages(words).run(Clean().run([document], Ledger()), Ledger()))


def test_code_keeps_its_lines_and_indentation():
    outline = Outline()
    outline.code("\n\tfor x in y:  \n\t\tprint(x)\n\n")
    assert outline.sections() == (Section((), ("```\n    for x in y:\n        print(x)\n```",)),)
    assert is_code(fenced("a"))
    assert not is_code("```inline``` code")
    assert fenced("```\na\n```") == "````\n```\na\n```\n````"


def test_code_of_a_page_stands_in_its_passage_as_it_was():
    html = b"<p>To see all, run</p><pre>if x:\n    frob: --all\n</pre><p>It takes a minute.</p>"
    (passage,) = passages(read("a.html", html))
    assert passage.text == "To see all, run\n```\nif x:\n    frob: --all\n```\nIt takes a minute."
    assert passage.prose == "To see all, run\nIt takes a minute."


def test_long_code_is_cut_between_lines_and_stays_fenced():
    section = Section((), (fenced("\n".join(f"line {i} of the code" for i in range(10))),))
    found = passages(ParsedDocument("a.md", DIGEST, "T", (section,)), words=10)
    assert len(found) > 1
    assert all(passage.text.startswith("```\nline") and passage.text.endswith("code\n```") for passage in found)


def test_code_becomes_no_question():
    text = f"The gate opens at 08:00.\n{fenced('color: The color of an existing frame.')}"
    passage = Passage("a.md", DIGEST, "Widgets", ("Widgets", "Frames"), text, 0)
    examples = list(GenerateByRules().run([passage], Ledger()))
    assert examples
    assert {example.answer for example in examples} == {"The gate opens at 08:00."}


def test_a_section_over_two_pages_is_one_run_of_text_that_knows_where_each_passage_begins():
    sections = tuple(Section(("A",), (f"The text of page {page}.",), page) for page in (1, 2, 3))
    found = passages(ParsedDocument("a.pdf", DIGEST, "T", sections), words=10)
    assert [(passage.text, passage.page) for passage in found] == [
        ("The text of page 1.\nThe text of page 2.", 1),
        ("The text of page 3.", 3),
    ]
