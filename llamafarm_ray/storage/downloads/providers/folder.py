"""Models at web addresses: one file, a folder whose server lists it, or one whose files have the usual names."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.storage.downloads.addresses import has_credentials, shown, unsigned_query
from llamafarm_ray.storage.downloads.providers.archives import is_archive
from llamafarm_ray.storage.downloads.providers.source import Listing
from llamafarm_ray.storage.downloads.providers.spelling import FILES, model_name
from llamafarm_ray.storage.downloads.providers.wanted_files import KNOWN_NAMES, choose_files
from llamafarm_ray.storage.downloads.remote import Wanted
from llamafarm_ray.storage.downloads.web import Web, WebFile
from llamafarm_ray.storage.formats.shards import INDEX, is_index, read_weight_map
from llamafarm_ray.types import Digest

__all__ = ["WebSource"]

_WEIGHTS = "model.safetensors"
_LOOKS_AT_ONCE = 8


class WebSource:
    """A model at a URL.

    Args:
        url: of a file (GGUF, safetensors, zip, wheel), of ``*.safetensors.index.json``, or of a folder.

    Raises:
        InputError: the URL names a user or a password.
    """

    kind = "web"
    revision = ""
    needs_network = True
    is_fixed = False

    def __init__(self, url: str) -> None:
        if has_credentials(url):
            raise InputError(
                f"The address {shown(url)} has a user or password in it, which would end in records.",
                hint="Put them into ~/.netrc (machine, login, password), or set a bearer token in the environment.",
            )
        self._url = url
        self.address = shown(url)
        self.variant = unsigned_query(url)
        last = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])
        is_file = last.lower().endswith(FILES)
        self._is_file = is_file and not is_index(last)
        self._index = last if is_file and not self._is_file else ""
        self.name = model_name(last) if self._is_file else last
        if self._index:
            self.name = unquote(urlsplit(url).path.rpartition("/")[0].rpartition("/")[2])

    def listing(self, web: Web, include: Sequence[str]) -> Listing:
        """Look at the file, the listing or the index, and at each file's ETag."""
        web.credentials.trust(self._url)
        archives: frozenset[str] = frozenset()
        if self._is_file:
            name = unquote(urlsplit(self._url).path.rpartition("/")[2])
            files = [Wanted(name, WebFile(web, self._url))]
            archives = frozenset({name} if is_archive(name) else ())
        elif self._index:
            files = _indexed(web, urljoin(self._url, "./"), self._index)
        else:
            files = self._folder(web, include)
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
            found = [one for one in pool.map(lambda one: _looked_at(web, one), files) if one is not None]
        if not found:
            raise NotFoundError(f"There is no model at {self.address}.", hint="Check the address.")
        is_known = all(one.validator for one in found)
        state = Digest.of(repr(sorted((one.path, one.validator) for one in found)).encode()) if is_known else ""
        return Listing(state, found, archives)

    def copy_elsewhere(self) -> Path | None:
        """Return nothing."""
        return None

    def _folder(self, web: Web, include: Sequence[str]) -> list[Wanted]:
        parts = urlsplit(self._url)
        base = parts._replace(path=parts.path.rstrip("/") + "/").geturl()
        try:
            page = web.text(base)
        except NotFoundError:
            return _usual(web, base)
        if "html" not in page.headers.get("content-type", ""):
            return _usual(web, base)
        names = _links(page.body.decode(errors="replace"), base)
        if not names:
            return _usual(web, base)
        chosen = choose_files(dict.fromkeys(names), include, self.address)
        return [Wanted(name, WebFile(web, urljoin(base, quote(name)))) for name in chosen]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _links(page: str, base: str) -> list[str]:
    """Return the names of the files directly below a folder that its page links to."""
    parser = _Links()
    parser.feed(page)
    absolute = (shown(urljoin(base, link)) for link in parser.found)
    below = {unquote(url[len(shown(base)) :]) for url in absolute if url.startswith(shown(base))}
    return sorted(name for name in below if name and "/" not in name)


def _indexed(web: Web, base: str, index: str) -> list[Wanted]:
    """Return the shards that an index names, and the usual files beside it."""
    shards = read_weight_map(web.text(urljoin(base, quote(index))).body, shown=f"{shown(base)}{index}")
    names = choose_files(dict.fromkeys({index, *shards.values()}), (), shown(base))
    return [Wanted(name, WebFile(web, urljoin(base, quote(name)))) for name in names] + _others(web, base)


def _usual(web: Web, base: str) -> list[Wanted]:
    """Return the usual files of a model's folder whose server does not list it."""
    try:
        return _indexed(web, base, INDEX)
    except NotFoundError:
        return [Wanted(_WEIGHTS, WebFile(web, urljoin(base, _WEIGHTS)), is_optional=True), *_others(web, base)]


def _others(web: Web, base: str) -> list[Wanted]:
    return [Wanted(name, WebFile(web, urljoin(base, name)), is_optional=True) for name in KNOWN_NAMES]


def _looked_at(web: Web, wanted: Wanted) -> Wanted | None:
    """Return a file with its size and ETag; ``None`` for an optional one that is not there."""

    def look() -> tuple[int | None, str]:
        with wanted.remote.read(0, 1) as answer:
            return answer.size_bytes, answer.validator

    try:
        size_bytes, validator = web.again(wanted.remote.shown, look)
    except NotFoundError:
        if wanted.is_optional:
            return None
        raise
    return Wanted(wanted.path, wanted.remote, size_bytes=size_bytes, validator=validator)
