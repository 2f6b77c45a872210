"""The main text of a page, without navigation, banners, controls and hidden parts.

Elements are judged by their kind (``nav``, ``role``, ``hidden``), by a few class names that generators of pages share,
and by the share of links in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxml import etree

from llamafarm_ray.data.readers.web.elements import HEADINGS, INLINE, NOT_TEXT

if TYPE_CHECKING:
    from lxml.etree import _Element

__all__ = ["main_text"]

_ROLES = frozenset(
    re.findall(
        r"\S+",
        "navigation contentinfo search menu menubar toolbar dialog alertdialog tablist button banner "
        "directory doc-noteref",
    )
)
_HIDING = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
# Names of whole classes and ids: Sphinx, DocBook, AsciiDoc, GNU, Bootstrap, WordPress.
_NAMES = frozenset(
    re.findall(
        r"\S+",
        "nav navbar navigation navheader navfooter docnav breadcrumb breadcrumbs pagination footer headerlink "
        "sphinxsidebar toplang bottomlang skip-link skiplink sr-only visually-hidden screen-reader-text permalink "
        "linenos anchorjs-link toclink edit-link footnote-reference noteref",
    )
)
_LIKELY = re.compile(
    r"(?<![a-z])(?:nav|menu|sidebar|toc|related|share|social|lang|languages|header|footer|crumbs)(?![a-z])"
)
_COOKIES = re.compile(r"cookie|gdpr|consent", re.IGNORECASE)
_MAX_COOKIE_CHARS = 1200
_GLYPHS = frozenset(["¶", "#", "§", "🔗", "⚓", "↑", "↩", "↩︎", "[edit]", "[top]"])
_TURNING = frozenset(
    re.findall(
        r"\w+",
        "prev previous next up home top back contents index zur\u00fcck weiter pr\u00e9c\u00e9dent suivant anterior "
        "siguiente indietro avanti",
    )
)
_ITEMS = frozenset({"a", "td", "th", "li", "div", "p", "span"})
_MAX_ITEM_CHARS = 20
_MAX_TURNING_CHARS = 300
_MAX_LANGUAGES_CHARS = 60
_MIN_LINKS = 3
_MAX_LINK_SHARE, _MAX_LIKELY_LINK_SHARE = 0.75, 0.4
_MAIN_SHARE = 0.3


@dataclass(slots=True)
class _Counts:
    """Characters of an element without spaces, those in links, and its links by kind."""

    chars: int = 0
    link_chars: int = 0
    num_links: int = 0
    turning: frozenset[str] = frozenset()  # links to, or names of, the page before, after and above
    num_languages: int = 0
    has_heading: bool = False

    def add(self, other: _Counts) -> None:
        self.chars += other.chars
        self.link_chars += other.link_chars
        self.num_links += other.num_links
        if other.turning:
            self.turning |= other.turning
        self.num_languages += other.num_languages
        self.has_heading = self.has_heading or other.has_heading


def main_text(root: _Element) -> tuple[_Element, set[_Element]]:
    """Return the element that holds the main text, and the elements below it that don't belong there."""
    dropped = _marked(root)
    body = root.find("body") if root.tag == "html" else None
    body = root if body is None else body
    mains: list[tuple[_Element, int]] = []
    articles: list[tuple[_Element, int]] = []
    total = _count(body, dropped, mains, articles)
    for found in (mains, articles if len(articles) == 1 else []):
        largest = max(found, key=lambda pair: pair[1], default=None)
        if largest is not None and largest[1] >= _MAIN_SHARE * total.chars:
            return largest[0], dropped
    return body, dropped


def _marked(root: _Element) -> set[_Element]:
    """Return the elements that say themselves that they are no main text."""
    dropped = set()
    walker = etree.iterwalk(root, events=("start", "end"))
    articles = 0  # open elements in which a header belongs to the text
    for event, element in walker:
        inside = element.tag in {"article", "main", "section"}
        if event == "end":
            articles -= inside
            continue
        articles += inside
        if element.tag in NOT_TEXT or _is_marked(element):
            dropped.add(element)
            walker.skip_subtree()
        elif element.tag == "header" and not articles:
            _keep_headings(element)
        elif element.tag == "aside" and not articles:
            dropped.add(element)
            walker.skip_subtree()
    return dropped


def _is_marked(element: _Element) -> bool:
    if element.tag == "a" and _is_glyph(element):
        return True
    return bool(element.attrib) and (_is_hidden(element) or _is_named(element))


def _is_hidden(element: _Element) -> bool:
    get = element.get
    return get("hidden") is not None or get("aria-hidden") == "true" or bool(_HIDING.search(get("style", "")))


def _is_named(element: _Element) -> bool:
    """Return True for elements whose role, class or id is that of navigation, a banner, or a mark beside the text."""
    if element.tag in {"html", "body", "main", "article"}:
        return False
    role = element.get("role")
    if role in _ROLES and not (role == "banner" and element.tag == "header"):
        return True
    names = f"{element.get('class', '')} {element.get('id', '')}".lower()
    if not _NAMES.isdisjoint(names.split()):
        return True
    return bool(_COOKIES.search(names)) and _is_short(element)


def _is_short(element: _Element) -> bool:
    num_chars = 0
    for text in element.itertext():
        num_chars += len(text)
        if num_chars > _MAX_COOKIE_CHARS:
            return False
    return True


def _is_glyph(link: _Element) -> bool:
    """Return True for links that are only a sign, such as a pilcrow beside a heading."""
    text = (link.text or "") + (link[0].text or "" if len(link) == 1 else "")
    return len(link) <= 1 and text.strip() in _GLYPHS


def _keep_headings(header: _Element) -> None:
    """Empty the header of a page but for its headings."""
    headings = [child for child in header.iter(*HEADINGS) if child.getparent() is not None]
    header.text = None
    header[:] = headings
    for heading in headings:
        heading.tail = None


def _count(
    body: _Element, dropped: set[_Element], mains: list[tuple[_Element, int]], articles: list[tuple[_Element, int]]
) -> _Counts:
    """Count ``body``, and add to ``dropped`` the blocks that are navigation by their links."""
    stack = [_Counts()]
    walker = etree.iterwalk(body, events=("start", "end"))
    for event, element in walker:
        if event == "start":
            if element in dropped:
                walker.skip_subtree()
                stack.append(_Counts())
            else:
                stack.append(_Counts(chars=_num_chars(element.text)))
            continue
        counts = stack.pop()
        tail = _num_chars(element.tail) if element is not body else 0
        if element not in dropped:
            _count_kind(element, counts)
            if element.tag not in INLINE and element is not body and _is_navigation(element, counts):
                dropped.add(element)
                counts = _Counts()
            elif element.tag == "main" or element.get("role") == "main":
                mains.append((element, counts.chars))
            elif element.tag == "article":
                articles.append((element, counts.chars))
        stack[-1].add(counts)
        stack[-1].chars += tail
    return stack[0]


def _count_kind(element: _Element, counts: _Counts) -> None:
    if element.tag in HEADINGS:
        counts.has_heading = True
    if element.tag == "a" and element.get("href") is not None:
        counts.link_chars = counts.chars
        counts.num_links += 1
        counts.num_languages += element.get("hreflang") is not None or "alternate" in element.get("rel", "").split()
        if element.get("rel") in {"prev", "next", "up"} or element.get("accesskey") in {"p", "n", "u"}:
            counts.turning = frozenset({element.get("rel") or element.get("accesskey")})
    if element.tag in _ITEMS and 0 < counts.chars <= _MAX_ITEM_CHARS and len(element) == 0:
        words = re.findall(r"\w+", element.text or "")
        if words and words[0].lower() in _TURNING and len(words) <= 2:  # "Next page"
            counts.turning = frozenset({words[0].lower()})


def _is_navigation(element: _Element, counts: _Counts) -> bool:
    """Return True for a block of links, of languages, or of the pages before and after."""
    if counts.has_heading or element.tag in {"main", "article", "dd", "pre"}:
        return False
    if len(counts.turning) >= 2 and counts.chars <= _MAX_TURNING_CHARS:  # back and forth
        return True
    if 2 <= counts.num_languages == counts.num_links:  # a bar of languages, and what it says of them
        return counts.chars - counts.link_chars <= max(_MAX_LANGUAGES_CHARS, counts.link_chars)
    if counts.num_links and _LIKELY.search(f"{element.get('class', '')} {element.get('id', '')} {element.tag}".lower()):
        return counts.link_chars >= _MAX_LIKELY_LINK_SHARE * counts.chars
    return counts.num_links >= _MIN_LINKS and counts.link_chars >= _MAX_LINK_SHARE * counts.chars


def _num_chars(text: str | None) -> int:
    return len("".join(text.split())) if text else 0
