"""Names of HTML elements by what they are, and the text of an element."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from lxml import etree

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["HEADINGS", "INLINE", "NOT_TEXT", "squeezed_text", "text_of"]

HEADINGS = {f"h{level}": level for level in range(1, 7)}
INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr output q ruby rb s samp "
        "small span strike strong sub sup time tt u var wbr "
        "rp rt button canvas img input map math output select svg script",
    )
)
NOT_TEXT = frozenset(
    re.findall(
        r"\w+",
        "script style noscript template svg math iframe head button input select textarea datalist option object "
        "embed applet canvas audio video map nav footer rt rp dialog",
    )
)
"""Elements whose content is no text of the page. ``rt`` repeats a word in another script."""


def text_of(root: _Element, dropped: Container[_Element]) -> str:
    """Return the text below ``root`` as it stands there, with a space at the borders of blocks, without ``dropped``."""
    parts: list[str] = []
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        inline = element.tag in INLINE
        if event == "start":
            if element.tag in NOT_TEXT or element in dropped:
                walker.skip_subtree()
            elif element.tag == "br":
                parts.append("\n")
            else:
                parts.append(("" if inline or element is root else " ") + (element.text or ""))
        elif element is not root:
            parts.append(("" if inline else " ") + (element.tail or ""))
    return "".join(parts)


def squeezed_text(root: _Element, dropped: Container[_Element]) -> str:
    """Return the text below ``root`` on one line."""
    return " ".join(text_of(root, dropped).split())
