"""MHTML: a page saved by a browser, as an e-mail message with the page and its images in it."""

from __future__ import annotations

import email
import email.message
import email.policy

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader
from llamafarm_ray.data.readers.web.decode import decode_page, parse_page
from llamafarm_ray.data.readers.web.html import read_page

__all__ = ["MhtmlReader"]


class MhtmlReader(Reader):
    """``.mhtml`` and ``.mht`` files: the page itself, without its frames."""

    name = "MHTML"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`; the title is the page's."""
        try:
            message = email.message_from_bytes(data, policy=email.policy.compat32)
            page = next((part for part in message.walk() if part.get_content_type() == "text/html"), None)
            content = page.get_payload(decode=True) if page is not None else None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise BrokenDocumentError(f"it is not a valid MHTML file ({error}).") from error
        if page is None or not isinstance(content, bytes):
            raise BrokenDocumentError("it is not a valid MHTML file (it has no HTML part).")
        return read_page(parse_page(decode_page(content, outline, page.get_content_charset() or "")), outline)
