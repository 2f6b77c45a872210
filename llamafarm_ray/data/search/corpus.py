"""A corpus to retrieve from: the passages of documents, split as a dataset's are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.sources import SkippedDocument, discover, read_file
from llamafarm_ray.data.steps import Clean, DetectLanguage, Ledger, SplitPassages
from llamafarm_ray.data.text import text_digest
from llamafarm_ray.errors import InputError

__all__ = ["Corpus", "read_corpus"]


@dataclass(frozen=True)
class Corpus:
    """Passages of documents.

    Args:
        passages: all passages, by document and in its order.
        documents: paths of the documents that were read.
        skipped: files that can't be read, with the reason.
    """

    passages: list[Passage]
    documents: list[str]
    skipped: list[SkippedDocument] = field(default_factory=list)
    digest: str = ""


def read_corpus(source: str | Path | Sequence[str], *, passage_words: int) -> Corpus:
    """Read a corpus in this process.

    Args:
        source: a folder, a document, a pattern or a URI, or several; see `discover`.
        passage_words: words of a passage; use those of the dataset that the model was trained on.

    Raises:
        InputError: there is no document, or none can be read.
    """
    found = discover(source)
    passages: list[Passage] = []
    documents: list[str] = []
    skipped = list(found.skipped)
    for file in sorted(found.files, key=lambda one: one.path):
        for read in read_file(file.path, file.location):
            if read.error:
                skipped.append(SkippedDocument(read.path, read.error))
            if read.document is None:
                continue
            documents.append(read.document.path)
            cleaned = DetectLanguage().run(Clean().run([read.document], Ledger()), Ledger())
            passages += SplitPassages(passage_words).run(cleaned, Ledger())
    if not passages:
        why = f" The first one, {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise InputError(f"The corpus {found.name!r} has no text.{why}", hint="Give documents with text in --corpus.")
    digest = text_digest(part for passage in passages for part in (passage.document, passage.with_headings))
    return Corpus(passages, documents, skipped, digest)
