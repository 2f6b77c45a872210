"""Each text-like format gives its text under its headings; markup, code and records keep what they mean."""

import contextlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafarm_ray.data.readers import BrokenDocumentError, DocumentError, is_supported, reader_for
from llamafarm_ray.data.readers.records import columnar
from llamafarm_ray.data.steps import Ledger, SplitPassages


def read(path, data):
    return reader_for(path).read(data if isinstance(data, bytes) else data.encode(), path)


def outline(path, data):
    return {section.headings: list(section.blocks) for section in read(path, data).sections}


def test_rst(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    text = f"""\
Tour guide
==========

It *starts* at ``eight``, see :ref:`the plan <plan>` and `home <https://example.org>`_.

.. include:: {tmp_path / "secret.txt"}

.. raw:: html

   <b>raw</b>

.. note:: Bring a card.

.. versionadded:: 2.1

   Dogs are allowed.

Prices
------

term
  Its meaning.

- one
- two

.. code-block:: sh

   frob  --all

====== =====
Group  Price
====== =====
Adult  12 euros
====== =====
"""
    assert outline("a.rst", text) == {
        ("Tour guide",): [
            "It starts at eight, see the plan and home.",
            "Bring a card.",
            "2.1",
            "Dogs are allowed.",
        ],
        ("Tour guide", "Prices"): [
            "term: Its meaning.",
            "one",
            "two",
            "```\nfrob  --all\n```",
            "Adult: 12 euros",
        ],
    }
    assert read("a.rst", text).title == "Tour guide"


def test_asciidoc():
    text = """\
= Tour guide
Anna Smith <anna@example.org>
:toc: left

It *starts* at `eight`, see link:plan.html[the plan]
and <<prices,prices>>.

// a comment
include::secret.txt[]

[[prices]]
== Prices

.Groups
* one
** two
. first
. second

Height:: 40 metres

[source,sh]
----
frob  --all
----

|===
|Group |Price

|Adult
|12 euros
|===

NOTE: Bring a card.
"""
    found = outline("a.adoc", text)
    assert found["Tour guide",][-1] == "It starts at eight, see the plan and prices."
    assert found["Tour guide", "Prices"] == [
        "one",
        "two",
        "first",
        "second",
        "Height: 40 metres",
        "```\nfrob  --all\n```",
        "Adult: 12 euros",
        "NOTE: Bring a card.",
    ]


def test_latex():
    text = r"""\documentclass{article}
\newcommand{\x}{secret}
\title{Tour \emph{guide}}
\begin{document}
\maketitle
It starts at eight~\cite{plan}. % a comment
It costs 12~\euro{} at 100\% of the Caf\'e.

\input{/etc/passwd}

\section{Prices \& times}\label{sec:x}
\begin{itemize}
  \item one
  \item two
\end{itemize}
\begin{tabular}{ll}
\hline
Adult & 12 euros \\
\end{tabular}
\subsection*{Run}
\begin{verbatim}
frob  --all
\end{verbatim}
\end{document}
"""
    document = read("a.tex", text)
    assert document.title == "Tour guide"
    assert outline("a.tex", text) == {
        (): ["It starts at eight. It costs 12 € at 100% of the Café."],
        ("Prices & times",): ["one", "two", "Adult: 12 euros"],
        ("Prices & times", "Run"): ["```\nfrob  --all\n```"],
    }


def test_org():
    text = """\
#+TITLE: Tour guide
# a comment
* TODO Prices :money:
:PROPERTIES:
:ID: 17
:END:
It *starts* at =eight=,
see [[https://example.org][the plan]].
- one
- Height :: 40 metres
| Group | Price |
|-------+-------|
| Adult | 12 euros |
#+BEGIN_SRC sh
frob  --all
#+END_SRC
"""
    assert read("a.org", text).title == "Tour guide"
    assert outline("a.org", text) == {
        ("Prices",): [
            "It starts at eight, see the plan.",
            "one",
            "Height: 40 metres",
            "Adult: 12 euros",
            "```\nfrob  --all\n```",
        ]
    }


def test_mdx_leaves_out_components_and_keeps_code():
    text = 'import {Tab} from "x"\n\n# Tour\n\n<Tab title="a">\n\nIt starts at eight.\n\n</Tab>\n\n```js\n<Tab/>\n```\n'
    assert outline("a.mdx", text) == {("Tour",): ["It starts at eight.", "```\n<Tab/>\n```"]}


def test_notebooks_give_text_and_code_without_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# Tour\n", "It starts at eight."]},
        {"cell_type": "code", "source": "print(1)\n", "outputs": [{"text": "secret"}]},
    ]
    assert outline("a.ipynb", json.dumps({"cells": cells})) == {
        ("Tour",): ["It starts at eight.", "```\nprint(1)\n```"]
    }
    with pytest.raises(BrokenDocumentError, match="notebook"):
        read("a.ipynb", "{}")


@pytest.mark.parametrize(
    ("path", "text", "blocks"),
    [
        ("a.csv", "name,price\nAdult,12\nChild,\n", ["name: Adult; price: 12", "name: Child"]),
        ("a.csv", 'name;note\nA;"x;y"\nB;"two\nlines"\n', ["name: A; note: x;y", "name: B; note: two lines"]),
        ("a.csv", "1,2\n3,4\n", ["1; 2", "3; 4"]),
        ("a.csv", "name\nAdult\n", ["name: Adult"]),
        ("a.tsv", 'name\tnote\nA\t5" pipe\n', ['name: A; note: 5" pipe']),
        ("a.json", '{"n": "Mill", "open": true, "tags": ["a", "b"], "x": null}', ["n: Mill; open: yes; tags: a, b"]),
        ("a.json", '[{"a": {"b": "deep", "c": 1}}, "leaf"]', ["b: deep; c: 1", "leaf"]),
        ("a.jsonl", '{"text": "One.\\n\\nTwo."}\n{"question": "Q", "answer": "A"}\n', ["One.", "Two.", "Q: Q A: A"]),
        ("a.xml", "<r><x>A <b>bold</b> x.</x><p><n>Mill</n><h>40 m</h></p></r>", ["A bold x.", "n: Mill; h: 40 m"]),
    ],
)  # fmt: skip
def test_records(path, text, blocks):
    assert [block for section in read(path, text).sections for block in section.blocks] == blocks


def test_records_have_passages_of_their_own():
    document = read("a.ndjson", '{"title": "A", "text": "One."}\n{"text": "Two."}\n{"text": "Three."}\n')
    assert [(section.headings, section.record) for section in document.sections] == [(("A",), 1), ((), 2), ((), 3)]


def test_no_passage_has_text_of_two_records():
    document = read("a.jsonl", '{"text": "One."}\n{"text": "Two."}\n')
    assert [row.text for row in SplitPassages(100).run([document], Ledger())] == ["One.", "Two."]


def test_lines_that_are_no_json_are_noted():
    assert read("a.jsonl", '{"text": "One."}\n{bad\n').notes == (
        "1 lines that are no JSON left out, the first is line 2",
    )
    with pytest.raises(BrokenDocumentError, match="none of its lines"):
        read("a.jsonl", "{bad\n")


def test_deep_json_is_broken_or_read_but_never_a_crash():
    with pytest.raises(DocumentError):
        read("a.json", "[" * 100_000)
    with pytest.raises(DocumentError):
        read("a.json", "[" * 900 + "1" + "]" * 900)


def test_titles_in_xml_are_headings():
    text = "<b><title>Guide</title><c><title>Prices</title><para>It is <em>free</em>.</para></c></b>"
    assert outline("a.xml", text) == {("Guide", "Prices"): ["It is free."]}


def test_xml_expands_no_entities():
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><x><y>&b; one</y><z>two</z></x>'
    assert "ha" not in str(outline("a.xml", bomb))
    with pytest.raises(DocumentError):
        read("a.xml", '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x>&f;</x>')


def parquet(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_parquet_and_arrow(monkeypatch):
    table = pa.table({"text": ["One.", "Two."], "n": [1, 2]})
    other = pa.table({"name": ["Mill"], "height": [40]})
    assert outline("a.parquet", parquet(other)) == {(): ["name: Mill; height: 40"]}
    for new, path in ((pa.ipc.new_file, "a.arrow"), (pa.ipc.new_stream, "a.feather")):
        buffer = io.BytesIO()
        with new(buffer, table.schema) as writer:
            writer.write_table(table)
        assert [section.blocks for section in read(path, buffer.getvalue()).sections] == [("One.",), ("Two.",)]
    with pytest.raises(BrokenDocumentError, match="Parquet"):
        read("a.parquet", b"PAR1")
    monkeypatch.setattr(columnar, "MAX_UNPACKED_BYTES", 10)
    with pytest.raises(DocumentError, match="unpack"):
        read("a.parquet", parquet(other))


def test_subtitles():
    srt = (
        "1\n00:00:01,000 --> 00:00:02,000\nThe <i>mill</i>\n\n2\n00:00:02,500 --> 00:00:03,000\nis old.\n\n"
        "3\n00:01:00,000 --> 00:01:01,000\nBye.\n"
    )
    assert outline("a.srt", srt) == {(): ["The mill is old.", "Bye."]}
    vtt = (
        "WEBVTT\n\nNOTE secret\n\n00:01.000 --> 00:02.000 align:start\n<v Anna>It is\n\n"
        "00:02.000 --> 00:03.000\nIt is\nold.\n\n00:03.000 --> 00:04.000\n<v Ben>Yes.\n"
    )
    assert outline("a.vtt", vtt) == {(): ["Anna: It is old.", "Ben: Yes."]}


def test_source_code():
    python = (
        '"""A mill.\n\nIt is\nold.\n"""\n\nimport os\n\n\n'
        '@cache\ndef grind(x):\n    """Grind grain."""\n    return x\n\n\nx = 1\n'
    )
    assert outline("a.py", python) == {
        (): ["A mill.", "It is old.", '```\n"""A mill.\n\nIt is\nold.\n"""\n\nimport os\n```'],
        ("grind",): [
            "Grind grain.",
            '```\n@cache\ndef grind(x):\n    """Grind grain."""\n    return x\n```',
            "```\nx = 1\n```",
        ],
    }
    assert outline("a.py", "print 'two'\n") == {(): ["```\nprint 'two'\n```"]}
    rust = "/// Grinds grain.\n/// Slowly.\nfn grind() {\n\n    x();\n}\n"
    assert outline("a.rs", rust) == {(): ["Grinds grain. Slowly.", f"```\n{rust.rstrip()}\n```"]}


def test_minified_code_is_skipped():
    with pytest.raises(DocumentError, match="minified"):
        read("a.min.js", "var a=1;" * 1000)


def test_a_list_among_other_keys_is_a_list_of_records():
    text = '{"title": "Mills", "year": 1890, "items": [{"name": "A", "h": 4}, {"name": "B", "h": 5}]}'
    assert [section.blocks for section in read("a.json", text).sections] == [
        ("title: Mills; year: 1890",),
        ("name: A; h: 4",),
        ("name: B; h: 5",),
    ]
    assert read("mills.json", text).title == "mills"


def test_files_without_an_extension_are_text_if_their_content_is():
    assert outline("LICENSE", "Do what you want.") == {(): ["Do what you want."]}
    assert reader_for("README.Debian").name == "text"
    assert reader_for("Makefile").name == "source code"
    with pytest.raises(BrokenDocumentError):
        read("a.out", b"\x7fELF\0\0") if is_supported("a.out") else read("program", b"\x7fELF\0\0")


_LINES = (
    *(
        "= T",
        "* H",
        "- a",
        "|===",
        "|a|b",
        "----",
        "\\section{",
        "}",
        "$x",
        "\\begin{tabular}{l}",
        ".. x::",
        "   y",
        "",
    ),
    *("From a", "Subject: x", "--", "> q", '{"a":', "[1]", "<a>", "</a>", "#+begin_src", "1 --> 2", "===", "def f(:"),
)
_EXTENSIONS = (
    *("rst", "adoc", "tex", "org", "mdx", "ipynb", "csv", "tsv", "json", "jsonl", "xml", "eml", "mbox", "srt", "vtt"),
    *("py", "c", "parquet", "arrow", "txt", "md"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_LINES), max_size=12).map("\n".join), st.sampled_from(_EXTENSIONS))
def test_any_text_gives_a_document_or_a_named_error(text, extension):
    with contextlib.suppress(DocumentError):
        assert read(f"a.{extension}", text).sections
