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
_RIGHTS = re.compile(r"(?i)\ball rights reserved\b")
_HOLDER = (
    r"(?:[A-Z\u00c0-\u00de][\w.&'\u2019-]*|(?i:by|of|the|and|und|et|y|e|de|des|von|\w*authors?|\w*contributors?"
    r"|team|project|foundation|company)|&|[-\u2013])"
)
_COPYRIGHT = re.compile(
    r"(?:\u00a9|\([cC]\)|\b(?i:copyright)\b)(?:\s*(?:\u00a9|\([cC]\)))?[\s:,]*"
    rf"(?:{_HOLDER}[\s,;:]+){{0,8}}(?:19|20)\d\d\b(?P<rest>.*)"
)
"""A mark, a holder and a year. "(c)" can be the third item of a list, and "copyright" the subject of a sentence."""
_MAX_WORDS_AFTER_YEAR = 8
_COPYRIGHT_CHARS = 60
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
        "copyright line": is_short and _is_copyright(line),
        "license text": _LICENSE.search(line),
        "cookie notice": _is_notice(line),
        "page note": is_short and _META.fullmatch(line),
    }
    return next((kind for kind, found in kinds.items() if found), "")


def _is_copyright(line: str) -> bool:
    """Return True if a line states a copyright, at its beginning or at its end."""
    found = _COPYRIGHT.match(line) or _COPYRIGHT.search(line, max(0, len(line) - _COPYRIGHT_CHARS))
    if _RIGHTS.match(line) or _RIGHTS.search(line, max(0, len(line) - _COPYRIGHT_CHARS)):
        return True
    return found is not None and len(found["rest"].split()) <= _MAX_WORDS_AFTER_YEAR


def _is_bar(line: str) -> bool:
    """Return True if a line lists languages to choose from."""
    return len(set(_LANGUAGE_NAME.findall(line))) >= _MIN_LANGUAGES and not line.endswith((".", "!", "?"))


def _is_notice(line: str) -> bool:
    """Return True if a line about cookies addresses the reader, as a manual of a web server does not."""
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
