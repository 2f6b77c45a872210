"""ZIP packages of XML parts, as Office (OOXML), OpenDocument and EPUB files are, opened within bounds."""

from __future__ import annotations

import io
import zipfile
import zlib
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lxml import etree

from llamafarm_ray.data.readers.base import BrokenDocumentError, EncryptedDocumentError, OversizedDocumentError

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["MAX_UNPACKED_BYTES", "Package", "parse_xml"]

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""A package that unpacks to more than this is refused before anything is unpacked."""

_MAX_MEMBERS = 10_000
_MAX_XML_TAGS = 4_000_000  # about 1 GB as a tree
_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")  # Office wraps a file with a password like this, and the old formats
_ENCRYPTED_FLAG = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


class Package:
    """An open package; use it as a context manager.

    Args:
        kind: name of its format, for messages.

    Raises:
        BrokenDocumentError: it is no ZIP file.
        EncryptedDocumentError: it asks for a password.
        OversizedDocumentError: it unpacks to more than ``MAX_UNPACKED_BYTES``.
    """

    def __init__(self, data: bytes, kind: str) -> None:
        self._kind = kind
        if data.startswith(_OLE_MAGIC):
            raise EncryptedDocumentError(
                f"it is encrypted, or of an older format than {kind}.", hint=f"Save it as {kind} without a password."
            )
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            members = self._zip.infolist()
        except _DAMAGE as error:
            raise self.broken(error) from error
        if any(member.flag_bits & _ENCRYPTED_FLAG for member in members):
            raise EncryptedDocumentError("it is encrypted.", hint="Save it without a password.")
        if any(member.compress_type not in _METHODS for member in members):
            raise self.broken("it is compressed by another method than the format allows")
        # zipfile gives no more of a member than its declared size.
        unpacked_bytes = sum(member.file_size for member in members)
        if len(members) > _MAX_MEMBERS or unpacked_bytes > MAX_UNPACKED_BYTES:
            raise OversizedDocumentError(
                f"it unpacks to {len(members)} parts of {unpacked_bytes} bytes; "
                f"{_MAX_MEMBERS} parts and {MAX_UNPACKED_BYTES} bytes are the limit."
            )
        self.names = frozenset(member.filename for member in members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def broken(self, cause: object) -> BrokenDocumentError:
        """Return the error for a broken file."""
        told = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)
        return BrokenDocumentError(f"it is not a valid {self._kind} file ({told.rstrip('.')}).")

    def read(self, name: str) -> bytes:
        """Return the bytes of a part.

        Raises:
            BrokenDocumentError: it is missing or damaged.
        """
        if name not in self.names:
            raise self.broken(f"it has no part {name!r}")
        try:
            return self._zip.read(name)
        except _DAMAGE as error:
            raise self.broken(error) from error

    def xml(self, name: str) -> _Element:
        """Return the root element of an XML part.

        Raises:
            BrokenDocumentError: it is missing, damaged or no XML.
        """
        data = self.read(name)
        try:
            return parse_xml(data)
        except (etree.LxmlError, ValueError) as error:
            raise self.broken(error) from error


def parse_xml(data: bytes) -> _Element:
    """Parse XML without entities, network or recovery; depth and lengths stay within libxml2's limits.

    Raises:
        lxml.etree.LxmlError, ValueError: it is no XML, or declares entities.
        OversizedDocumentError: it has too many tags to hold.
    """
    if data.count(b"<") > _MAX_XML_TAGS:
        raise OversizedDocumentError(f"it has more than {_MAX_XML_TAGS} tags.")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
    root = etree.fromstring(data, parser)
    internal = root.getroottree().docinfo.internalDTD
    if internal is not None and any(True for _ in internal.iterentities()):
        raise ValueError("it declares entities")
    return root
