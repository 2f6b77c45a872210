"""``llamafarm models download``."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamafarm_ray.cli.options import FilesOutput, Home, Json, Offline
from llamafarm_ray.cli.terminal import StageProgress, errors, print_json, say, size, stages

if TYPE_CHECKING:
    from llamafarm_ray.workflows.models.download import Downloaded

__all__ = ["TransferLine", "command"]


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="owner/name on the hub, https://, s3://, gs://, oci://host/repository:tag, a folder, a GGUF file, "
            "a zip or a wheel.",
        ),
    ],
    revision: Annotated[
        str, typer.Option("--revision", help="Branch, tag or commit of a hub; tag or digest of a registry.")
    ] = "",
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="Weights to take instead of the safetensors: '*Q4_K_M*'."),
    ] = None,
    output: FilesOutput = None,
    name: Annotated[str | None, typer.Option("--name", help="Register it under this name.")] = None,
    verify_signature: Annotated[
        Path | None,
        typer.Option(
            "--verify-signature", metavar="KEY.pem", help="Refuse files that this public key did not sign (model.sig)."
        ),
    ] = None,
    offline: Offline = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Download a model from anywhere, resumed and verified; prints the folder."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.storage.downloads.downloads import Report
    from llamafarm_ray.workflows.models.download import download

    with stages(quiet=as_json) as progress:
        line = TransferLine(progress)
        found = download(
            open_registry(home),
            source,
            revision=revision,
            include=include or (),
            offline=True if offline else None,
            output=output,
            name=name,
            public_key=verify_signature,
            report=Report(line, errors.line if not as_json else lambda _: None),
        )
    if as_json:
        version = found.version.ref if found.version else None
        print_json(
            {
                "folder": str(found.folder),
                "was_here": found.was_here,
                "version": version,
                "signed_by": found.signed_by,
                **found.record.to_json(),
            }
        )
        return
    _show(found)


class TransferLine:
    """Progress bar of a download, with bytes, rate and time left.

    Args:
        progress: display of the lines.
        source: the source, named in lines that stand for themselves.
    """

    def __init__(self, progress: StageProgress, source: str = "") -> None:
        self._progress = progress
        self._source = source
        self._seen: deque[tuple[float, int]] = deque()
        self._drawn_at = 0.0
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int | None) -> None:
        """Redraw it, ten times a second at most."""
        now = time.monotonic()
        with self._lock:
            if now - self._drawn_at < _SECONDS_BETWEEN and done != total:
                return
            self._drawn_at = now
            self._seen.append((now, done))
            while now - self._seen[0][0] > _WINDOW_S:
                self._seen.popleft()
            self._progress("Download", done / total if total else 0.0)
            if self._source:
                is_end = len(self._seen) == 1 or done == total
                self._progress.line(f"Downloading {self._source}: {self.text(done, total)}", at_once=is_end)
            else:
                self._progress.detail(self.text(done, total))

    def text(self, done: int, total: int | None) -> str:
        """Return ``"1.2 GB of 4.1 GB  85 MB/s  0:34 left"``."""
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        rate = (last - first) / (last_at - first_at) if last_at > first_at else 0.0
        parts = [f"{size(done)} of {size(total)}" if total is not None else size(done)]
        if rate > 0:
            parts.append(f"{size(int(rate))}/s")
            if total is not None:
                minutes, seconds = divmod(int((total - done) / rate), 60)
                hours, minutes = divmod(minutes, 60)
                parts.append(f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left")
        return "  ".join(parts)


_SECONDS_BETWEEN = 0.1
_WINDOW_S = 10.0


def _show(found: Downloaded) -> None:
    record = found.record
    licence = record.licence or "not told"
    errors.line(
        f"{record.source}{f' at {record.resolved[:19]}' if record.resolved else ''}: {len(record.files)} files, "
        f"{size(record.size_bytes)}, licence {licence}{', already here' if found.was_here else ''}."
    )
    if found.signed_by is not None:
        errors.line(f"All files were signed with the key {found.signed_by}.")
    if found.version is not None:
        errors.line(f"Registered {found.version.ref}.")
    say(str(found.folder))
