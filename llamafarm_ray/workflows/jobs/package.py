"""Package of a job: the files of the working directory, and the paths as the job reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamafarm_ray.errors import InputError

__all__ = ["MAX_PACKAGE_BYTES", "OUTPUTS", "WorkingDirectory", "plain_name"]

MAX_PACKAGE_BYTES = 512 * 1024**2
"""Ray takes no larger message (its ``max_grpc_message_size``), and keeps a package in the head node's memory."""
OUTPUTS = "llamafarm-jobs"
"""Folder in the home directory of the user who runs jobs there; it holds their outputs with relative paths."""

_LEFT_OUT = frozenset({"__pycache__", "mlruns", "node_modules", "runs", "trained_models", "venv", "wandb"})
"""Folders of any depth that hold outputs, not inputs; so do those whose name starts with a dot."""
_NUM_NAMED = 5
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip file can hold; all members get it, so that the same files make the same package."""


def plain_name(text: str) -> str:
    """Return a name of a folder for any text: letters, digits, ``_``, ``.`` and ``-``."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".") or "-"


@dataclass(slots=True)
class WorkingDirectory:
    """A folder that a job is started in, and what of it the job takes along.

    Attributes:
        named: files and folders inside of it that the job was told to read. They are taken along wherever they are,
            while the rest is what git does not ignore, without what is hidden or was made by a run.
    """

    folder: Path
    named: set[Path] = field(default_factory=set)

    @classmethod
    def current(cls) -> WorkingDirectory:
        """The one that this process is in.

        Raises:
            InputError: it is no folder of one project: the user's home, or the whole disk.
        """
        folder = Path.cwd().resolve()
        if folder == Path(folder.anchor) or folder == Path.home().resolve():
            raise InputError(
                f"A job takes the working directory along, and that is {folder} now.",
                hint="Start it in a folder that holds the job's inputs and nothing private.",
            )
        return cls(folder)

    def take(self, key: str, text: str) -> str:
        """Return ``text`` as the job reads it, if it names a file or folder of this machine.

        Of a pattern the folder before its first wildcard counts. Paths that do not exist (a model's name, a bucket, a
        path of the cluster) stay as they are, and so do outputs of another job, which belong to the cluster even if
        that is this machine.

        Args:
            text: a path or another name.

        Raises:
            InputError: it is there, but outside of the working directory.
        """
        if "://" in text:
            return text
        path = Path(os.path.normpath(self.folder / Path(text).expanduser()))
        wildcard = re.search(r"[*?\[]", text)
        if wildcard and not path.exists():
            start = text.rfind("/", 0, wildcard.start()) + 1
            return f"{self.take(key, text[:start] or '.').rstrip('/')}/{text[start:]}"
        whole, _, part = text.rpartition("#")
        if whole and not path.exists():  # a split of a dataset, or an entry of a list of them
            taken = self.take(key, whole)
            return text if taken == whole else f"{taken}#{part}"
        if not path.exists() or path.is_relative_to(Path.home() / OUTPUTS):
            return text
        inside = next((found for found in (path, path.resolve()) if found.is_relative_to(self.folder)), None)
        if inside is None:
            raise InputError(
                f"{key}: {text!r} is on this machine and outside of the working directory {self.folder}, "
                "so the job would not have it.",
                hint="Put it into the working directory or a bucket. If the cluster has a folder of that name, "
                "use `ray job submit`, whose paths are the cluster's.",
            )
        self.named.add(inside)
        return inside.relative_to(self.folder).as_posix()

    def pack(self, target: Path, more: Mapping[str, bytes]) -> int:
        """Write a zip file of the package, and return its number of files.

        Args:
            target: the file to write.
            more: contents of further files by their name.

        Raises:
            InputError: it is too much, or a file can't be read.
        """
        files = dict(sorted(self._files()))
        self._check_size(files)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as package:
            for name, path in files.items():
                member = zipfile.ZipInfo(name, _EARLIEST)
                member.compress_type = zipfile.ZIP_DEFLATED
                try:
                    member.external_attr = (path.stat().st_mode & 0o777) << 16
                    with path.open("rb") as source, package.open(member, "w") as copy:
                        shutil.copyfileobj(source, copy)
                except OSError as error:
                    raise InputError(f"{path} can't be read: {error.strerror}.") from None
            for name, content in more.items():
                package.writestr(zipfile.ZipInfo(name, _EARLIEST), content)
        return len(files)

    def _check_size(self, files: Mapping[str, Path]) -> None:
        sizes = {name: path.stat().st_size for name, path in files.items()}
        total = sum(sizes.values())
        if total <= MAX_PACKAGE_BYTES:
            return
        largest = sorted(sizes, key=lambda name: -sizes[name])[:_NUM_NAMED]
        raise InputError(
            f"The working directory {self.folder} has {_mib(total)} in {len(files):,} files, and a job takes "
            f"{_mib(MAX_PACKAGE_BYTES)} along. The largest: "
            f"{', '.join(f'{name} ({_mib(sizes[name])})' for name in largest)}.",
            hint="Put large files into a bucket and name them by their URI, or have git ignore what isn't needed.",
        )

    def _files(self) -> Iterator[tuple[str, Path]]:
        """The files to take along, by their name inside of the working directory."""
        listed = self._known_to_git()
        rest = _walk(self.folder) if listed is None else (path for path in listed if not self._is_left_out(path))
        named = (file for path in self.named for file in (_walk(path) if path.is_dir() else [path]))
        for path in (*rest, *named):
            if path.is_file():  # neither gone meanwhile, nor a socket
                yield path.relative_to(self.folder).as_posix(), path

    def _is_left_out(self, path: Path) -> bool:
        return any(_is_left_out(part) for part in path.relative_to(self.folder).parts)

    def _known_to_git(self) -> Iterable[Path] | None:
        """The files that git tracks or would add; None where there is no git, or no repository of it."""
        git = shutil.which("git")
        if git is None:
            return None
        command = [git, "-C", str(self.folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=False)  # no shell, our own arguments
        if listed.returncode != 0:
            return None
        return [self.folder / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]


def _walk(top: Path) -> Iterator[Path]:
    """Yield the files below a folder, links followed, without those that are always left out."""
    seen = set[str]()
    for folder, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_left_out(name))
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_OUT


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 1024**2:,.0f} MiB"
