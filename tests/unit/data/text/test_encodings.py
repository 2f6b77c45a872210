"""Text in any encoding is read as it was written, and what is no text is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamafarm_ray.data.readers import BrokenDocumentError, reader_for
from llamafarm_ray.data.text import decode_any

GERMAN = "Das Café öffnet um acht Uhr. Größe und Maß."
JAPANESE = "図書館は八時に開きます。料金は四十ユーロです。"
CHINESE = "图书馆八点开门。费用是四十欧元。"
RUSSIAN = "Библиотека открывается в восемь. Стоимость сорок евро."


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "latin-1"),
        ("“The café” opens at 8 — it\u2019s €4.", "cp1252"),
        ("Le musée ouvre à huit heures. L'entrée coûte 4 euros.", "cp1252"),
        ("¿Dónde está el museo? El niño abrió la puerta.", "cp850"),
        (GERMAN, "utf-16"),
        (JAPANESE, "utf-16"),
        (GERMAN, "utf-16-le"),
        (GERMAN, "utf-32"),
        (CHINESE, "utf-8-sig"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (CHINESE, "gb18030"),
        ("圖書館八點開門。費用是四十歐元。", "big5"),
        ("도서관은 여덟 시에 문을 엽니다.", "euc_kr"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (RUSSIAN, "cp866"),
        ("Biblioteka otwiera się o ósmej. Źdźbło żółci gęślą jaźń.", "cp1250"),
        ("Biblioteka otwiera się o ósmej. Źdźbło żółci gęślą jaźń.", "iso8859_2"),
        ("\u0397 βιβλιοθήκη ανοίγει στις οκτώ.", "cp1253"),
        ("تفتح المكتبة في الثامنة. هل هذا صحيح؟", "cp1256"),
        ("הספרייה נפתחת בשמונה.", "cp1255"),
    ],
)
def test_text_is_read_in_the_encoding_that_it_was_written_in(text, encoding):
    assert decode_any(text.encode(encoding)).text == text


def test_a_few_letters_deep_in_a_large_file_tell_its_encoding():
    data = b"The library opens at eight.\n" * 2000 + "Das Café öffnet um acht.".encode("cp1252")
    assert decode_any(data).text.endswith("Das Café öffnet um acht.")


def test_a_stray_byte_in_utf8_is_left_out_and_said():
    document = reader_for("a.txt").read(("Das Café ist schön. " * 30).encode() + b"Caf\xe9", "a.txt")
    assert document.notes == ("1 bytes that are not UTF-8 left out",)
    assert "Das Café ist schön." in document.sections[0].blocks[0]


def test_the_encoding_is_noted_where_it_is_not_utf8():
    assert reader_for("a.txt").read(GERMAN.encode("cp1252"), "a.txt").notes == ("read as cp1252",)
    assert reader_for("a.md").read(JAPANESE.encode("shift_jis"), "a.md").notes == ("read as cp932",)
    assert reader_for("a.txt").read(GERMAN.encode(), "a.txt").notes == ()


@pytest.mark.parametrize(
    "data",
    [b"abc\0def\0\0", b"\xff\xfe\x00", b"\xff\xff", b"\x7fELF\x02\x01\x01\0\0\0", bytes(range(256)) * 20, b"\xb2\xa9"],
)
def test_what_is_no_text_is_refused(data):
    with pytest.raises(BrokenDocumentError, match="UTF-8"):
        reader_for("a.txt").read(data, "a.txt")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.sampled_from(["utf-8", "utf-8-sig"]))
@example("\x1b$B", "utf-8")
def test_utf8_is_always_read_as_utf8(text, encoding):
    decoded = decode_any(text.encode(encoding))
    assert decoded.text == text.removeprefix("\ufeff") or text.startswith("\x1b")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.sampled_from(["utf-16", "utf-32"]))
def test_unicode_with_a_byte_order_mark_is_read_exactly(text, encoding):
    assert decode_any(text.encode(encoding)).text == text.removeprefix("\ufeff")


@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_nothing(data):
    decoded = decode_any(data)
    assert decoded is None or isinstance(decoded.text, str)
