"""The frame of a report page, and the parts that all of them have."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["asset", "bullets", "escaped", "header", "page", "tiles", "write_page"]


def page(title: str, parts: Iterable[str], *, css: str = "", script: str = "") -> str:
    """Return a whole page. Its policy lets no browser load anything for it.

    Args:
        title: of the window, as plain text.
        parts: pieces of HTML; empty ones are left out.
        css: rules after those that all pages share.
        script: JavaScript that runs once the page is loaded.
    """
    body = "\n".join(part for part in parts if part)
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; script-src 'unsafe-inline'" if script else "")
    tail = f"<script>\n{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{asset('llamafarm_ray.pages', 'style.css')}{css}</style></head>\n"
        f"<body>\n{body}\n{tail}</body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all, in a folder that is made if need be.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def asset(package: str, name: str) -> str:
    """Return the text of a file in a package."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def escaped(value: object) -> str:
    """Return a value as text in which nothing is markup."""
    return html.escape(str(value))


def header(title: str, *, outcome: str = "", when: str = "") -> str:
    """Return the line on top.

    Args:
        outcome: a word in a colored pill, which is also its class; "" for none.
        when: HTML at the right.
    """
    pill = f'<span class="outcome {escaped(outcome)}">{escaped(outcome)}</span>' if outcome else ""
    right = f'<span class="when">{when}</span>' if when else ""
    return f"<header><h1>{escaped(title)}</h1>{pill}{right}</header>"


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the numbers that count most, each as (value, name) in plain text."""
    made = "".join(f"<div><b>{escaped(value)}</b><span>{escaped(name)}</span></div>" for value, name in pairs)
    return f'<section class="tiles">{made}</section>'


def bullets(title: str, lines: Sequence[str]) -> str:
    """Return lines of plain text below a heading; nothing for none."""
    if not lines:
        return ""
    return f"<h2>{escaped(title)}</h2><ul>" + "".join(f"<li>{escaped(line)}</li>" for line in lines) + "</ul>"
