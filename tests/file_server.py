"""A file server on loopback with ETag and Range that fails on purpose, and a hub of Hugging Face's protocol."""

import base64
import functools
import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Asked", "Fault", "FileServer", "HubServer", "file_server", "hub_server"]


@dataclass
class Fault:
    """One way to fail, in place of a right answer or in the middle of it.

    Attributes:
        status: the answer's status.
        headers: headers added to its head.
        cut_after: the connection is closed after so many bytes of the body.
        drip: bytes that are sent before the server waits until it is released.
        no_ranges: answers 200 with the whole file.
        chunked: the same without telling its size.
        body: other bytes in place of the file's.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    cut_after: int | None = None
    drip: int | None = None
    no_ranges: bool = False
    chunked: bool = False
    body: bytes | None = None


@dataclass
class Asked:
    """A request: its path without query, its headers, and how many of that path there were before."""

    path: str
    query: dict
    headers: dict
    number: int

    @property
    def range(self):
        """The first and the last byte that were asked for, ``None`` for all."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return found and (int(found[1]), int(found[2]))


class FileServer:
    """Files by their path, as bytes or as a file on disk; a path that ends with ``/`` lists those below it."""

    def __init__(self):
        self.files = {}
        self.etags = {}
        self.headers = {}
        self.asked = []
        self.sent_bytes = 0
        self.fault = lambda _asked: None
        self.login = None
        self.released = threading.Event()
        self.url = ""
        self._lock = threading.Lock()

    def etag(self, path):
        """The ETag of a path."""
        data = self.files[path]
        return self.etags.get(path) or f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'

    def note(self, path, query, headers):
        """Keep a request."""
        with self._lock:
            asked = Asked(path, query, headers, sum(one.path == path for one in self.asked))
            self.asked.append(asked)
            return asked

    def route(self, asked):
        """What a path is: status, headers and body, or ``None`` for a file."""
        if asked.path.endswith("/") and asked.path not in self.files:
            names = sorted({name[len(asked.path) :] for name in self.files if name.startswith(asked.path)})
            page = "".join(f'<a href="{name}">{name}</a>\n' for name in ["../", *names])
            return (200 if names else 404), {"Content-Type": "text/html"}, page.encode()
        return None

    def ranges(self):
        """The ranges that were asked for, without those of the first look at a file."""
        return [asked.range for asked in self.asked if asked.range and asked.range != (0, 0)]


class HubServer(FileServer):
    """Repositories with revisions; large files are redirected to a second server, the CDN."""

    def __init__(self, cdn):
        super().__init__()
        self.cdn = cdn
        self.repos = {}
        self.accepts = None
        self.gated = set()

    def add(self, repo, files, revision="main"):
        """Commit files to a branch; the commit's id."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()
        for name in (revision, commit):
            self.repos[repo, name] = (commit, dict(files))
        return commit

    def route(self, asked):
        refused = self._refused(asked)
        if refused:
            return refused
        api = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/revision/(.+)", asked.path)
        if api:
            return self._info(api[1], unquote(api[2]))
        tree = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/(.+)", asked.path)
        return self._tree(tree[1], tree[2]) if tree else self._resolve(asked)

    def _tree(self, repo, revision):
        entries = [
            {"type": "file", "path": name, "size": _size(data), "oid": "0" * 40 if _is_lfs(name) else _git(data)}
            | ({"lfs": {"oid": _sha(data), "size": _size(data), "pointerSize": 134}} if _is_lfs(name) else {})
            for name, data in self.repos[repo, revision][1].items()
        ]
        return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()

    def _resolve(self, asked):
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", asked.path)
        if not found or (found[1], found[2]) not in self.repos:
            return _no("RepoNotFound", 401 if self.accepts is None else 404)
        commit, files = self.repos[found[1], found[2]]
        if found[3] not in files:
            return _no("EntryNotFound", 404)
        if found[1] in self.gated and asked.headers.get("authorization") != f"Bearer {self.accepts}":
            return _no("GatedRepo", 401)
        data = files[found[3]]
        if not _is_lfs(found[3]):
            self.files[asked.path] = data
            self.etags[asked.path] = f'"{_git(data)}"'
            self.headers[asked.path] = {"X-Repo-Commit": commit}
            return None
        place = f"/cdn/{_sha(data)}"
        self.cdn.files[place], self.cdn.etags[place] = data, f'"{_sha(data)}"'
        linked = {"X-Linked-Etag": self.cdn.etags[place], "X-Linked-Size": str(_size(data)), "X-Repo-Commit": commit}
        return 302, {"Location": f"{self.cdn.url}{place}?signature=very-secret", **linked}, b""

    def _refused(self, asked):
        if (
            self.accepts is not None
            and not self.gated
            and asked.headers.get("authorization") != f"Bearer {self.accepts}"
        ):
            return _no("RepoNotFound", 401)
        return None

    def _info(self, repo, revision):
        if not any(known == repo for known, _ in self.repos):
            return _no("RepoNotFound", 404)
        if (repo, revision) not in self.repos:
            return _no("RevisionNotFound", 404)
        commit, files = self.repos[repo, revision]
        siblings = [
            {"rfilename": name, "size": _size(data), "blobId": _git(data) if not _is_lfs(name) else "0" * 40}
            | ({"lfs": {"sha256": _sha(data), "size": _size(data), "pointerSize": 134}} if _is_lfs(name) else {})
            for name, data in files.items()
        ]
        return (
            200,
            {"Content-Type": "application/json"},
            json.dumps(
                {"id": repo, "sha": commit, "siblings": siblings, "gated": "manual" if repo in self.gated else False}
            ).encode(),
        )


def _no(code, status):
    return status, {"X-Error-Code": code}, b"no"


def _is_lfs(name):
    return name.endswith((".safetensors", ".gguf", ".bin"))


def _size(data):
    return data.stat().st_size if isinstance(data, Path) else len(data)


@functools.cache
def _sha(data):
    if isinstance(data, Path):
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(data).hexdigest()


def _git(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files = None

    def do_GET(self):
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = self.files.note(unquote(parts.path), parse_qs(parts.query), headers)
        fault = self.files.fault(asked) or Fault()
        with suppress(ConnectionError):
            self._serve(asked, fault)

    def do_HEAD(self):
        self.do_GET()

    def _serve(self, asked, fault):
        login = self.files.login
        if login and asked.headers.get("authorization") not in {login, _basic(login)}:
            return self._whole(401, {"WWW-Authenticate": "Basic"}, b"no")
        if fault.status is not None:
            return self._whole(fault.status, fault.headers, b"")
        if (routed := self.files.route(asked)) is not None:
            return self._whole(*routed)
        if asked.path not in self.files.files:
            return self._whole(404, {}, b"no such file")
        return self._file(asked, fault)

    def _whole(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, asked, fault):
        data = self.files.files[asked.path] if fault.body is None else fault.body
        size, span = _size(data), asked.range
        begin, end = (
            (0, size) if span is None or fault.no_ranges or fault.chunked else (span[0], min(size, span[1] + 1))
        )
        if span is not None and begin >= size and not (fault.no_ranges or fault.chunked):
            return self._whole(416, {"Content-Range": f"bytes */{size}"}, b"")
        is_part = span is not None and not (fault.no_ranges or fault.chunked)
        self.send_response(206 if is_part else 200)
        self.send_header("ETag", self.files.etags.get(asked.path) or self.files.etag(asked.path))
        if is_part:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        for name, value in (self.files.headers.get(asked.path, {}) | fault.headers).items():
            self.send_header(name, value)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if isinstance(data, Path):
            with data.open("rb") as file:
                while begin < end:
                    begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)
            return None
        return self._body(data[begin:end], fault)

    def _body(self, body, fault):
        self.files.sent_bytes += len(body) if fault.cut_after is None else fault.cut_after
        if fault.cut_after is not None:
            self.wfile.write(body[: fault.cut_after])
            self.wfile.flush()
            self.close_connection = True
        elif fault.drip is not None:
            self.wfile.write(body[: fault.drip])
            self.wfile.flush()
            self.files.released.wait(30)
            self.close_connection = True
        elif fault.chunked:
            half = len(body) // 2
            for part in (body[:half], body[half:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        """Print nothing."""


def _basic(login):
    return f"Basic {base64.b64encode(login.encode()).decode()}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        """Print nothing: clients of these tests are killed."""


@contextmanager
def file_server(files=None):
    """A running server."""
    files = files or FileServer()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"files": files}))
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        files.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hub_server():
    """A running hub and its CDN."""
    with file_server() as cdn, file_server(HubServer(cdn)) as hub:
        yield hub
