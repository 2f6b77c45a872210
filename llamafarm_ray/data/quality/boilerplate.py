"""Boilerplate: lines of navigation, licenses, page numbers, copyright and cookie notices, which teach nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llamafarm_ray.data.parsed import ParsedDocument, Section
from llamafarm_ray.data.steps.base import Dropped, Kept, Step

__all__ = ["DropBoilerplate", "boilerplate_kind"]

_MAX_NOTICE_WORDS = 80
_MAX_LINE_WORDS = 30
_PAGE = re.compile(
    r"(?i)[-\u2013|\[( ]*(?:page|seite|p[a\u00e1]gina|pagina|p\.|strona|sida)?\s*\d{1,5}\s*"
    r"(?:of|/|von|de|di|sur|van|z|av)\s*\d{1,5}[-\u2013|\]) ]*"
    r"|[-\u2013|\[( ]*(?:page|seite|p[a\u00e1]gina|pagina|sida)\s+\d{1,5}[-\u2013|\]). ]*"
)
_COPYRIGHT = re.compile(r"(?i)(?:\u00a9|\(c\)|copyright\b).{0,40}\b(?:19|20)\d\d|\ball rights reserved\b")
_COOKIES = re.compile(
    r"(?i)\bcookies?\b.*\b(?:accept|consent|preferences|agree|settings|experience|decline|reject|policy)\b|"
    r"\b(?:accept|reject|manage|decline)(?: all)? cookies?\b|\bwe use cookies\b"
)
_LICENSE = re.compile(
    r"(?i)permission is hereby granted, free of charge|the software is provided [\"\u201c']?as is|"
    r"redistribution and use in source and binary forms|licensed under the (?:apache|gnu|mit|creative commons|mozilla)|"
    r"this program is free software[;:,] you can redistribute|without even the implied warranty|"
    r"under the terms of the gnu|permission is granted to copy, distribute and/or modify|"
    r"this work is licensed under a creative commons|spdx-license-identifier|"
    r"in no event shall the (?:authors|copyright holders|author)\b|"
    r"you should have received a copy of the gnu"
)
_NAVIGATION_WORD = (
    r"(?:prev(?:ious)?(?: (?:page|topic|chapter|section))?|next(?: (?:page|topic|chapter|section))?|up|home|top"
    r"|contents?|"
    r"index|modules|back(?: to (?:the )?top)?|skip to (?:main )?content|table of contents|on this page|search|menu|"
    r"sign in|sign up|log ?in|log ?out|register|edit this page|view source|show source|toggle navigation|share|print|"
    r"subscribe|sitemap|contact(?: us)?|about(?: us)?|privacy(?: policy)?|terms(?: of (?:use|service))?|imprint|help|"
    r"facebook|twitter|linkedin|youtube|rss|zur\u00fcck|weiter|nach oben|inhalt|impressum|datenschutz|suivant|"
    r"pr\u00e9c\u00e9dent|accueil|anterior|siguiente|inicio)"
)
_SEPARATOR = r"[\s|;:,/\u00b7\u2022\u00bb\u00ab\u203a\u2039<>\u2190\u2192\u2013\u2014\\()\[\]*-]+"
_NAVIGATION = re.compile(
    rf"(?i)(?:{_SEPARATOR})?{_NAVIGATION_WORD}(?:{_SEPARATOR}{_NAVIGATION_WORD})*(?:{_SEPARATOR})?"
)
_CHAPTER_NAVIGATION = re.compile(
    r"(?i)(?:prev(?:ious)?|next|up)\s*[|;\u00bb\u00ab\u2013]\s*.{0,60}"
    r"|.{0,60}[|;\u00bb\u00ab\u2013]\s*(?:prev(?:ious)?|next|up)"
)
_LANGUAGE_NAME = re.compile(
    r"\b(?:English|Deutsch|Fran\u00e7ais|Espa\u00f1ol|Italiano|Portugu\u00eas|Nederlands|Polski|Svenska|Dansk|Suomi|Norsk|"
    r"T\u00fcrk\u00e7e|\u010ce\u0161tina|Magyar|Rom\u00e2n\u0103|\u0420\u0443\u0441\u0441\u043a\u0438\u0439|"
    r"\u65e5\u672c\u8a9e|\u4e2d\u6587|\ud55c\uad6d\uc5b4)(?!\w)"
)
_MIN_LANGUAGES = 3
_META = re.compile(
    r"(?i)(?:last (?:updated|modified)(?: on)?:?|was this (?:page|article) (?:helpful|useful)|"
    r"subscribe to our newsletter|"
    r"share this (?:page|article|post)|posted (?:on|by)|filed under|generated (?:by|with|on)|powered by|"
    r"found a bug\?|report (?:a bug|an issue)|improve this page|edit on github)\b.{0,80}"
)


def boilerplate_kind(line: str) -> str:
    """Return the kind of boilerplate that a block of text is; "" for one that belongs to its document."""
    line = line.strip()
    is_short = len(line.split()) <= _MAX_LINE_WORDS
    kinds = {
        "page number": _PAGE.fullmatch(line),
        "navigation": _NAVIGATION.fullmatch(line)
        or (is_short and _CHAPTER_NAVIGATION.fullmatch(line))
        or _is_bar(line),
        "copyright line": is_short and (_COPYRIGHT.match(line) or _COPYRIGHT.search(line[-60:])),
        "license text": _LICENSE.search(line),
        "cookie notice": _is_notice(line),
        "page note": is_short and _META.fullmatch(line),
    }
    return next((kind for kind, found in kinds.items() if found), "")


def _is_bar(line: str) -> bool:
    """Return True if a line lists languages to choose from."""
    return len(set(_LANGUAGE_NAME.findall(line))) >= _MIN_LANGUAGES and not line.endswith((".", "!", "?"))


def _is_notice(line: str) -> bool:
    """Return True if a line about cookies speaks to the reader, as a manual of a web server does not."""
    if len(line.split()) > _MAX_NOTICE_WORDS or not _COOKIES.search(line):
        return False
    return bool(re.search(r"(?i)\b(?:we|our|us)\b|\b(?:accept|reject|manage|decline)(?: all)? cookies?\b", line))


class DropBoilerplate(Step[ParsedDocument, ParsedDocument]):
    """Drops blocks that are boilerplate; a document of nothing else goes."""

    name = "boilerplate"

    def apply(self, rows: Iterable[ParsedDocument]) -> Iterator[ParsedDocument | Dropped | Kept[ParsedDocument]]:
        """See :meth:`Step.apply`."""
        for document in rows:
            found: Counter[str] = Counter()
            samples: list[str] = []
            sections = tuple(
                section
                for section in (_kept(section, found, samples) for section in document.sections)
                if section.blocks
            )
            if not sections:
                yield Dropped("nothing but boilerplate", sample="\n".join(samples))
            elif found:
                notes = Counter({f"{kind} left out": count for kind, count in found.items()})
                yield Kept(replace(document, sections=sections), notes, sample="\n".join(samples))
            else:
                yield document


def _kept(section: Section, found: Counter[str], samples: list[str]) -> Section:
    kept = []
    for block, marks in section.marked_blocks():
        kind = boilerplate_kind(block)
        if kind:
            found[kind] += 1
            samples.append(block)
        else:
            kept.append((block, marks))
    if len(kept) == len(section.blocks):
        return section
    blocks, marks_of_blocks = tuple(block for block, _ in kept), tuple(marks for _, marks in kept)
    return replace(section, blocks=blocks, marks=marks_of_blocks if section.marks else ())
