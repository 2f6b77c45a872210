"""E-mail (RFC 5322) and mbox: the text of each message, without quotations and signatures."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage

from llamafarm_ray.data.readers.base import MAX_TEXT_BYTES, BrokenDocumentError, DocumentError, Outline, Reader
from llamafarm_ray.data.readers.text import text_blocks
from llamafarm_ray.data.text import decode_any

__all__ = ["EmailReader", "MboxReader"]

_SEPARATOR = re.compile(rb"(?:\A|(?<=\n\n)|(?<=\r\n\r\n))From [^\n]*\n")
_FIELDS = ("From", "Date")
_FIELD = re.compile(rb"[!-9;-~]+:")
_ON_WROTE = re.compile(
    r"(?:On|Am|Le|El|Il)\b.{1,300}(?:wrote|schrieb.{0,80}|a \u00e9crit|escribi\u00f3|ha scritto)\s?:\s*$"
)
_FORWARDED = re.compile(r"-{3,}\s*(?:Original Message|Urspr\u00fcngliche Nachricht|Message d'origine)\s*-{3,}|_{20,}$")


class EmailReader(Reader):
    """``.eml`` files; the subject is the title. Attachments are named, not read."""

    name = "e-mail"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        if not _FIELD.match(data.lstrip()[:200]):
            raise BrokenDocumentError("it is no e-mail: it has no header.")
        return _add(data, outline)


class MboxReader(Reader):
    """``.mbox`` files: a section for each message."""

    name = "mbox"
    max_bytes = MAX_TEXT_BYTES

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        starts = list(_SEPARATOR.finditer(data))
        if not starts or starts[0].start():
            raise BrokenDocumentError("it is no mbox: it does not begin with 'From '.")
        for separator, end in zip(starts, [*(match.start() for match in starts[1:]), len(data)], strict=True):
            outline.record()
            _add(re.sub(rb"(?m)^>(>*From )", rb"\1", data[separator.end() : end]), outline)
        return ""


def _add(data: bytes, outline: Outline) -> str:
    message = email.message_from_bytes(data, EmailMessage, policy=email.policy.default)
    subject = _header(message, "Subject")
    outline.heading(1, subject)
    for name in _FIELDS:
        value = _header(message, name)
        outline.block(f"{name}: {value}" if value else "")
    body = message.get_body(preferencelist=("plain", "html"))
    if isinstance(body, EmailMessage):
        _add_body(body, outline)
    for part in message.iter_attachments() if message.is_multipart() else ():
        attached = part.get_filename()
        if attached:
            outline.block(f"Attachment: {attached}")
    return subject


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message[name] or "").split())
    except (ValueError, TypeError, IndexError, AttributeError):  # the parser of headers fails on some bad ones
        return ""


def _add_body(body: EmailMessage, outline: Outline) -> None:
    if body.get_content_type() == "text/html":
        from llamafarm_ray.data.readers import reader_for  # which imports this module

        reader = reader_for("mail.html")
        payload = body.get_payload(decode=True)
        if reader is not None and isinstance(payload, bytes):
            try:
                reader.parse(payload, outline)
            except DocumentError as error:
                outline.note(f"the body of a message was left out: {error}")
        return
    for block in text_blocks(_own_words(_content(body))):
        outline.block(block)


def _content(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    charset = part.get_content_charset()
    if charset:
        try:
            return payload.decode(charset)
        except (LookupError, UnicodeDecodeError):
            pass
    decoded = decode_any(payload)
    return decoded.text if decoded else ""


def _own_words(text: str) -> str:
    """Return the text without quoted lines, the line that announces them, a forwarded original and the signature."""
    kept: list[str] = []
    for line in text.splitlines():
        if line.rstrip("\r") in {"-- ", "--"} or _FORWARDED.match(line):
            break
        if line.startswith(">"):
            while kept and not kept[-1].strip():
                kept.pop()
            for num_lines in (1, 2):  # such a line is often wrapped
                if _ON_WROTE.match(" ".join(kept[-num_lines:])):
                    del kept[-num_lines:]
                    break
            continue
        kept.append(line)
    return "\n".join(kept)
