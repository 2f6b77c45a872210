"""Detect the language that most of a document is in: sentences are split by it, and short passages follow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llamafarm_ray.data.parsed import ParsedDocument, is_code
from llamafarm_ray.data.steps.base import Dropped, Kept, Step
from llamafarm_ray.data.text import language_of

__all__ = ["DetectLanguage"]

_MAX_SAMPLES = 50
_SAMPLE_CHARS = 500


class DetectLanguage(Step[ParsedDocument, ParsedDocument]):
    """Sets the language of a document, from up to 50 samples of 500 characters spread over it, and notes it."""

    name = "language"

    def apply(self, rows: Iterable[ParsedDocument]) -> Iterator[ParsedDocument | Dropped | Kept[ParsedDocument]]:
        """See :meth:`Step.apply`."""
        for document in rows:
            language = _language(document)
            yield Kept(replace(document, language=language), {language or "not recognized": 1})


def _language(document: ParsedDocument) -> str:
    samples = _samples(block for section in document.sections for block in section.blocks if not is_code(block))
    weights: Counter[str] = Counter()
    for sample in samples[:: -(-len(samples) // _MAX_SAMPLES)]:
        language = language_of(sample)
        if language:
            weights[language] += len(sample)
    return max(sorted(weights), key=weights.__getitem__, default="")


def _samples(blocks: Iterable[str]) -> list[str]:
    samples = [""]
    for block in blocks:
        if len(samples[-1]) + len(block) > _SAMPLE_CHARS and samples[-1]:
            samples.append("")
        samples[-1] = f"{samples[-1]} {block[:_SAMPLE_CHARS]}".strip()
    return samples
