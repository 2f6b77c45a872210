"""Steps of a Dockerfile, run in roots of namespaces where there is no builder of images."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BUILD_STAND_INS", "Image", "build"]

RUN_IN_ROOT = """\
set -eu
mount --make-rprivate /
mount --bind /usr {root}/usr
mount -o remount,bind,ro {root}/usr
mount --bind /dev {root}/dev
exec chroot {user} {root} env -i {variables} sh -c {command}
"""
BUILD_STAND_INS = {
    "apt-get": 'case "$*" in install*gcc*) ln -sf /bin/true /stand-ins/cc;; esac',
    "python3.11": """\
[ "$2" != venv ] || { mkdir -p .venv/bin; for name in python uv llamafarm; do cp "$0" .venv/bin/$name; done; }""",
}
"""Programs of the base image and of package sources, and what they do beside writing down how they were called."""


@dataclass
class Image:
    """A stage that is built.

    Attributes:
        root: its root folder.
        variables: of `ENV` and `ARG`.
        user: of `USER`.
        folder: of `WORKDIR`.
        command: of `CMD`.
    """

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    command: str = ""

    def calls(self) -> list[str]:
        """Return how the stand-ins were called."""
        log = self.root / "log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's command in the root, as its user."""
        variables = {"PATH": "/usr/sbin:/usr/bin", **self.variables}
        variables["PATH"] = f"/stand-ins:{variables['PATH'].replace('$PATH', '/usr/sbin:/usr/bin')}"
        script = RUN_IN_ROOT.format(
            root=shlex.quote(str(self.root)),
            user=f"--userspec={self.user}",
            variables=" ".join(shlex.quote(f"{key}={value}") for key, value in variables.items()),
            command=shlex.quote(f"cd {self.folder} && {command}"),
        )
        return subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)


def build(dockerfile: Path, context: Path, folder: Path, **arguments: str) -> Image:
    """Build the last stage of a Dockerfile, with stand-ins for what comes from outside.

    Args:
        dockerfile: with `ARG`, `FROM`, `WORKDIR`, `RUN`, `COPY`, `ENV`, `USER` and `CMD`.
        context: the folder that `COPY` takes from.
        folder: for the roots.
        arguments: of the build.

    Raises:
        RuntimeError: a step failed.
    """
    images: dict[str, Image] = {}
    image = Image(folder / "none")
    for name, rest in _instructions(dockerfile):
        if name == "FROM":
            stage = rest.partition(" AS ")[2] or str(len(images))
            image = images[stage] = Image(_root(folder / stage))
        elif name == "ARG":
            key, _, default = rest.partition("=")
            image.variables[key] = arguments.get(key, default)
        elif name == "ENV":
            image.variables |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif name == "WORKDIR":
            image.folder = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "USER":
            image.user = rest
        elif name == "CMD":
            image.command = rest
        elif name == "COPY":
            _copy(image, images, context, rest)
        elif name == "RUN":
            done = image.run(rest)
            if done.returncode:
                raise RuntimeError(f"RUN {rest}\n{done.stdout}{done.stderr}")
        else:
            raise RuntimeError(f"{name} is no instruction that this knows.")
    return image


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, _, rest in found]


def _root(folder: Path) -> Path:
    """Return a root with the programs of this machine, read-only, and else nothing but what every base image has."""
    for name in ("usr", "dev", "etc", "home", "opt", "root", "stand-ins", "tmp", "var/lib/apt/lists", "var/cache"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc" / "group").write_text("root:x:0:\n")
    for name, does in BUILD_STAND_INS.items():
        file = folder / "stand-ins" / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> /log\n{does}\n')
        file.chmod(0o755)
    return folder


def _copy(image: Image, images: dict[str, Image], context: Path, rest: str) -> None:
    words = re.sub(r"\$\{(\w+)\}", lambda found: image.variables[found[1]], rest).split()
    source = context
    if words[0].startswith("--from="):
        source = images[words.pop(0).partition("=")[2]].root
    *names, target = words
    into = image.root / (Path(image.folder) / target).as_posix().lstrip("/")
    for name in names:
        path = source / name.lstrip("/")
        to = into / path.name if target.endswith("/") else into
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, to)
