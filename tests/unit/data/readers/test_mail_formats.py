"""Mail gives its text, a section for each message."""

from llamafarm_ray.data.readers import reader_for


def read(path, data):
    return reader_for(path).read(data if isinstance(data, bytes) else data.encode(), path)


def outline(path, data):
    return {section.headings: list(section.blocks) for section in read(path, data).sections}


MAIL = """\
From: Anna <anna@example.org>
To: x@example.org
Date: Mon, 2 Nov 2026 10:00:00 +0000
Subject: =?utf-8?q?Caf=C3=A9_opening?=
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: 8bit

The caf\xe9 opens at
eight.

On Sunday, Ben <ben@example.org> wrote:
> When does it open?

Bye
-- 
Anna Smith, secret phone
--b
Content-Type: application/pdf
Content-Disposition: attachment; filename=plan.pdf
Content-Transfer-Encoding: base64

AAAA
--b--
"""  # noqa: W291


def test_mail():
    document = read("a.eml", MAIL.encode("latin-1"))
    assert document.title == "Café opening"
    assert {section.headings: list(section.blocks) for section in document.sections} == {
        ("Café opening",): [
            "From: Anna <anna@example.org>",
            "Date: Mon, 02 Nov 2026 10:00:00 +0000",
            "The café opens at eight.",
            "Bye",
            "Attachment: plan.pdf",
        ]
    }


def test_mbox_has_a_section_for_each_message():
    one = b"From a@b Mon Nov  2 10:00:00 2026\n" + MAIL.encode("latin-1") + b"\n"
    two = b"From a@b Mon Nov  2 11:00:00 2026\nSubject: Two\n\n>From here it is far.\n"
    document = read("a.mbox", one + two)
    assert [section.headings for section in document.sections] == [("Café opening",), ("Two",)]
    assert document.sections[1].blocks == ("From here it is far.",)


def test_a_mail_in_html_gives_its_text():
    text = "Subject: Hi\nContent-Type: text/html\n\n<p>The cafe opens at eight.</p><p>It closes at five.</p>"
    assert outline("a.eml", text) == {("Hi",): ["The cafe opens at eight.", "It closes at five."]}
